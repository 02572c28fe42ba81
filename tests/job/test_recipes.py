"""The job files that stand in `jobs/`: each loads, each training can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.estimate import estimate_job
from orchestrator.job import TrainJob, load_job

JOBS = Path(__file__).parents[2] / "jobs"
FILES = sorted(path.relative_to(JOBS).as_posix() for path in JOBS.rglob("*.yaml"))
NEEDS = {"video/pretrain.yaml": ["data.source=FOLDER"], "video/pack.yaml": ["source=FOLDER"]}


@pytest.mark.parametrize("file", FILES)
def test_every_job_file_loads_and_a_training_is_planned(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A job names others by their path from the working directory.
    monkeypatch.chdir(JOBS.parent)
    job = load_job(JOBS / file, NEEDS.get(file, []))
    if isinstance(job, TrainJob):
        planned = estimate_job(job)
        assert planned.flops is not None
        assert planned.flops.total > 0


@pytest.mark.parametrize(
    ("size", "millions", "gives"),
    [
        # Published: 300M, 600M, 1B. Exactly: the encoder of transformers' VJEPA2Model, built on the
        # meta device with these widths, depths and heads.
        ("large", 300, 303_885_312),
        ("huge", 600, 631_648_000),
        ("giant", 1000, 1_012_173_952),
    ],
)
def test_encoders_are_of_the_published_size(size: str, millions: int, gives: int) -> None:
    job = load_job(JOBS / "vjepa2" / f"vit-{size}.yaml", [])
    assert isinstance(job, TrainJob)
    counted = estimate_job(job).parameters
    assert counted is not None
    assert counted.encoder == pytest.approx(millions * 1e6, rel=0.06)
    assert counted.encoder == gives


def test_small_recipes_have_the_same_compute() -> None:
    """What README compares by the same probes; the student has the teacher's training in it."""

    def compute(name: str) -> float:
        job = load_job(JOBS / "small" / f"{name}.yaml", [])
        assert isinstance(job, TrainJob)
        flops = estimate_job(job).flops
        assert flops is not None
        return flops.total * job.optim.steps

    whole = compute("vjepa2")
    for name in ("vjepa2.1", "lejepa", "pixels", "lewm"):
        assert compute(name) == pytest.approx(whole, rel=0.01), name
    assert compute("salt-teacher") + compute("salt") == pytest.approx(whole, rel=0.01)
