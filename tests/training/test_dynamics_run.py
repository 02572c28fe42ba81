"""A training of dynamics from end to end: its codes are found once, kept, and part of the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.errors import JobFailed, RequestError
from orchestrator.evaluation.in_training.scheduler import EvaluationScheduler
from orchestrator.jepa.model_files import load_folder, weights_digest
from orchestrator.job import TrainJob, build_job
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.training.control.signals import Stopped
from orchestrator.training.driver import run_train
from orchestrator.training.resolve import pca as codes
from orchestrator.training.run_record import read_record

pytestmark = pytest.mark.integration

JOB: dict[str, Any] = {
    "kind": "train",
    "name": "dynamics",
    "data": {
        "source": "physics://possible?clips=11&size=32&fps=8&seconds=2",
        "frames": 8,
        "fps": 8.0,
        "size": 32,
        "augment": {"kind": "crop-flip", "scale": [1.0, 1.0], "aspect": [1.0, 1.0]},
        "encode": {"crf": 4, "chroma": "full"},
    },
    "model": {
        "encoder": {"kind": "codes", "dim": 12, "clips": 11},
        "patch": 8,
        "tubelet": 1,
        "predictor": {"dim": 16, "depth": 1, "heads": 2},
    },
    "objective": {"kind": "dynamics", "masks": [{"targets": 0.2}]},
    "optim": {"steps": 6, "lr": 0.003},
    "scale": {"global_batch": 4, "micro_batch": 4, "precision": "fp32", "cpus": 1},
    "checkpoint": {"every": 2},
    "track": {"every": 2, "pictures": 3},
}


def job_in(storage: Path, *overrides: str) -> TrainJob:
    job = build_job(copy.deepcopy(JOB) | {"storage": str(storage)}, overrides)
    assert isinstance(job, TrainJob)
    return job


def trained(job: TrainJob, until: int | None = None, fresh: bool = False) -> Path:
    """The model's folder of a local run."""
    run_train(
        job,
        SilentProgress(),
        fresh=fresh,
        local=True,
        profile=False,
        open_evaluations=EvaluationScheduler,
        stop_after_step=until,
    )
    return Path(job.storage) / "runs" / job.name / "model"


def digest_in(storage: Path, name: str = "dynamics") -> str:
    record = read_record(Storage(str(storage)).subfolder("runs", name))
    assert record is not None
    digest = record.job["objective"]["digest"]
    assert isinstance(digest, str)
    return digest


def test_a_run_that_goes_on_keeps_its_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path / "cut")
    with pytest.raises(Stopped):
        trained(job, until=3)
    digest = digest_in(tmp_path / "cut")
    assert digest == weights_digest(tmp_path / "cut" / "runs" / "dynamics" / "teacher")

    def never(*_: Any) -> Any:
        raise AssertionError("codes are found once")

    monkeypatch.setattr(codes, "fit_pca", never)
    model = load_folder(trained(job))
    monkeypatch.undo()
    whole = load_folder(trained(job_in(tmp_path / "whole")))
    assert digest_in(tmp_path / "whole") == digest_in(tmp_path / "cut") == digest
    for name, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    z = model.encode(torch.randint(0, 255, (1, 8, 32, 32, 3), dtype=torch.uint8))
    assert z.shape == (1, 128, 12)
    assert model.ahead(z).shape == (1, 8, 16, 1, 12)


def test_a_model_that_is_begun_with_brings_its_codes(tmp_path: Path) -> None:
    first = trained(job_in(tmp_path))
    other = "data.source=physics://possible?clips=11&size=32&fps=8&seconds=2&seed=5"
    second = trained(job_in(tmp_path, other, "name=second", f"model.from={first}"))
    before, after = load_folder(first), load_folder(second)
    for name, value in before.encoder.state_dict().items():
        assert torch.equal(value, after.encoder.state_dict()[name])
    assert before.predictor is not None
    assert after.predictor is not None
    assert not torch.equal(before.predictor.proj.weight, after.predictor.proj.weight)
    own = trained(job_in(tmp_path, other, "name=third"))
    assert not torch.equal(
        load_folder(own).encoder.patch_embed.proj.weight, before.encoder.patch_embed.proj.weight
    )


def test_codes_are_part_of_a_runs_identity(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the job asks for 0000000000000000"):
        trained(job_in(tmp_path, "objective.digest='0000000000000000'"))
    with pytest.raises(Stopped):
        trained(job_in(tmp_path), until=2)
    with pytest.raises(RequestError, match=r"model\.encoder\.dim: 12 -> 10"):
        trained(job_in(tmp_path, "model.encoder.dim=10"))


def test_data_without_a_whole_clip_is_told(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    with pytest.raises(Stopped):
        trained(job, until=2)
    for tar in tmp_path.glob("datasets/*/*.tar"):
        tar.write_bytes(b"\0" * tar.stat().st_size)
    for kept in tmp_path.glob("datasets/codes-*/config.json"):
        kept.unlink()
    with pytest.raises(JobFailed, match=r"no clip can be decoded to find codes in: .*sha256"):
        trained(job, fresh=True)
