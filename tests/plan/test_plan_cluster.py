"""A job planned on the cluster of a profile: what fits, how long, at what price."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.cluster_profile import Profile, load_profile
from orchestrator.estimate import ClusterEstimate, estimate_job, estimate_on_cluster
from orchestrator.job import TrainJob, build_job
from tests.support.waiting import cpu_seconds

GPU_GROUP = {
    "min": 2, "max": 128, "cpus": 192, "gpus": 8, "gpu": "h200", "memory": "2TiB", "price": 40.0,
}  # fmt: skip
HEAD = {"cpus": 16, "memory": "64GiB", "price": 0.5}


def a_profile(folder: Path, kind: str = "local", **groups: Any) -> Profile:
    path = folder / "there.yaml"
    path.write_text(yaml.safe_dump({"kind": kind, "nodes": {"head": HEAD, **groups}}))
    return load_profile(path)


def giant(*overrides: str, **scale: Any) -> TrainJob:
    """V-JEPA 2's ViT-g pretraining: 16 frames at 256 pixels, 24 clips a GPU."""
    job = build_job(
        {
            "kind": "train",
            "name": "giant",
            "data": {"source": "videos", "size": 256, "frames": 16},
            "model": {"encoder": "vit-giant", "patch": 16},
            "optim": {"steps": 1000},
            "scale": {"workers": 16, "global_batch": 384, "micro_batch": 24, **scale},
        },
        list(overrides),
    )
    assert isinstance(job, TrainJob)
    return job


def test_the_published_step_of_the_giant(tmp_path: Path) -> None:
    """V-JEPA 2's own run on 16 H200 at 24 clips each: 1.8 s a step, at 13% of the peak."""
    found = estimate_on_cluster(giant(), a_profile(tmp_path, gpu={**GPU_GROUP, "max": 2}))
    assert found.mfu == 0.13
    assert found.largest.step_s == pytest.approx(1.8, rel=0.02)
    assert estimate_job(giant(), gpu="h200", mfu=0.13).step_s == found.largest.step_s
    # 13 clips a second and GPU.
    assert 384 / 16 / found.largest.step_s == pytest.approx(13, abs=0.5)


def test_time_cores_and_price_follow_from_the_step(tmp_path: Path) -> None:
    found = estimate_on_cluster(giant(), a_profile(tmp_path, gpu=GPU_GROUP), step_s=2.0)
    one = found.largest
    assert (found.problem, found.mfu) == (None, None)
    assert (found.slots, found.slots_at_once) == (1024, 16)
    assert one.hosts.used == {"gpu": 2}
    assert one.hours == pytest.approx(1000 * 2.0 / 3600)
    assert one.gpu_hours == pytest.approx(16 * one.hours)
    # Two nodes and the head; the 126 that could be rented are not paid.
    assert one.cost == pytest.approx((2 * 40 + 0.5) * one.hours)
    assert one.cores == 2 * 192 - 16
    assert one.decode_cores == estimate_job(giant(), step_s=2.0).decode_cores


def test_every_elastic_size_trains_the_same_batch(tmp_path: Path) -> None:
    job = giant(workers={"min": 8, "max": 2048}, global_batch=3072)
    found = estimate_on_cluster(job, a_profile(tmp_path, gpu=GPU_GROUP))
    # What the cluster holds is the end, not what the job would take.
    assert [one.batch.world for one in found.sizes] == list(range(8, 1025))
    for one in found.sizes:
        batch = one.batch
        assert batch.padded - batch.padding == 3072
        assert batch.micro <= 24
        assert one.hosts.used["gpu"] == max(1, -(-batch.world // 8))
        assert one.fits is not None
        # What a rank computes decides: padding costs time, a larger world saves it.
        ratio = batch.micro * batch.accum / (found.largest.batch.micro * found.largest.batch.accum)
        assert one.step_s == pytest.approx(found.largest.step_s * ratio)


def test_decoding_that_is_short_of_cores_holds_the_steps_up(tmp_path: Path) -> None:
    few = {**GPU_GROUP, "cpus": 9}
    video = ("data.fps=2", "data.encode.short_side=1024")
    found = estimate_on_cluster(giant(*video), a_profile(tmp_path, gpu=few), step_s=1.0).largest
    assert found.decode_cores is not None
    assert found.step_s is not None
    assert found.decode_cores > found.cores == 2
    assert found.step_s == pytest.approx(found.decode_cores / found.cores, rel=0.05)


def test_the_smallest_change_that_fits_the_smallest_gpu(tmp_path: Path) -> None:
    mixed = {**GPU_GROUP, "max": 1, "min": 1}
    groups = {"big": mixed, "small": {**mixed, "gpu": "NVIDIA-A100-PCIE-40GB"}}
    found = estimate_on_cluster(giant(), a_profile(tmp_path, **groups))
    assert found.gpu is not None
    assert (found.gpu.memory, found.gpu.peak) == (40 * 2**30, 312e12)
    fits = found.largest.fits
    assert fits is not None
    assert fits.memory.device <= 0.92 * 40 * 2**30
    assert "scale.activation_checkpointing=true" in fits.to_overrides(giant())


def test_offload_must_fit_the_host(tmp_path: Path) -> None:
    job = giant("model.encoder=vit-gigantic", workers=8)
    groups = {**GPU_GROUP, "gpu": "a100-40gb", "min": 1, "max": 1}
    roomy = estimate_on_cluster(job, a_profile(tmp_path, gpu=groups)).largest.fits
    little = estimate_on_cluster(
        job, a_profile(tmp_path, gpu={**groups, "memory": "8GiB"})
    ).largest.fits
    assert roomy is not None
    assert little is None or not little.memory.offload


def test_without_gpus_the_ram_of_a_node_is_shared_and_no_time_is_made_up(tmp_path: Path) -> None:
    found = estimate_on_cluster(giant(workers=4), a_profile(tmp_path))
    assert not found.on_gpus
    assert (found.gpu, found.largest.step_s, found.largest.cost) == (None, None, None)
    assert found.largest.hosts.memory == 16 * 2**30
    assert any("--step-s" in note for note in found.notes)
    timed = estimate_on_cluster(giant(workers=4), a_profile(tmp_path), step_s=60.0).largest
    assert timed.hours == pytest.approx(1000 / 60)
    assert timed.gpu_hours is None
    assert timed.cost == pytest.approx(0.5 * 1000 / 60)


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    group = {**GPU_GROUP, "gpu": "mystery-9000"}
    del group["price"]
    found = estimate_on_cluster(giant(), a_profile(tmp_path, gpu=group))
    said = " ".join(found.notes)
    assert "give --gpu" in said
    assert "--step-s" in said
    assert "no price of nodes.gpu" in said
    assert (found.largest.fits, found.largest.step_s, found.largest.cost) == (None, None, None)
    assert found.problem is None
    named = estimate_on_cluster(giant(), a_profile(tmp_path, gpu=group), gpu="h200").largest
    assert named.fits is not None
    assert named.step_s == pytest.approx(1.8, rel=0.02)


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ({"workers": 1032}, "1,032 workers need 1,032 GPUs; 'there' has 1,024"),
        ({"workers": {"min": 1100, "max": 2000}}, "set scale.workers.min=1024"),
        ({"workers": 1024, "cpus": 30.0}, "holds 768 of them"),
    ],
)
def test_a_job_larger_than_the_cluster(tmp_path: Path, scale: dict[str, Any], said: str) -> None:
    problem = estimate_on_cluster(giant(**scale), a_profile(tmp_path, gpu=GPU_GROUP)).problem
    assert problem is not None
    assert said in f"{problem.what} {problem.mend}"


def test_gpus_that_are_asked_for_and_not_there(tmp_path: Path) -> None:
    problem = estimate_on_cluster(giant(device="gpu"), a_profile(tmp_path)).problem
    assert problem is not None
    assert "has none" in problem.what


def test_a_model_that_no_gpu_of_the_cluster_holds(tmp_path: Path) -> None:
    group = {**GPU_GROUP, "min": 1, "max": 1}
    problem = estimate_on_cluster(giant(workers=1), a_profile(tmp_path, gpu=group), gpu="1").problem
    assert problem is not None
    assert "not even one clip" in problem.what


def test_checkpoints_kept_and_written(tmp_path: Path) -> None:
    keys = ("checkpoint.every=100", "checkpoint.keep_last=2", "checkpoint.keep_best=1")
    where = a_profile(tmp_path, gpu=GPU_GROUP)

    def saving(*more: str) -> Any:
        found: ClusterEstimate = estimate_on_cluster(giant(*keys, *more), where, step_s=2.0)
        assert found.saving is not None
        return found.saving

    plain = saving()
    assert (plain.saves, plain.interval_steps, plain.kept) == (10, 100, 3)
    assert plain.most_bytes == 4 * plain.bytes  # one more while it is written
    assert plain.mean_lost_s(2.0) == 100.0
    assert saving("checkpoint.keep_every=500").kept == 5
    capped = saving(f"checkpoint.max_bytes={3 * plain.bytes + 1}")
    assert (capped.kept, capped.most_bytes) == (2, 3 * plain.bytes + 1)
    assert saving("optim.steps=50").most_bytes == plain.bytes
    # Judged every 150 steps beside it: 100, 150, 200, 300, 400, 450, ...
    judged = "{kind: evaluate, name: judged, model: m, suite: {quads: 2}}"
    mixed = saving(f"evaluate=[{{every: 150, job: {judged}}}]")
    assert mixed.saves == 13


# -- the command -----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    a_profile(tmp_path, gpu=GPU_GROUP)
    job = tmp_path / "giant.yaml"
    job.write_text(yaml.safe_dump(giant().model_dump(mode="json", by_alias=True, include={
        "kind", "name", "data", "optim", "scale"})))  # fmt: skip
    return [str(job), "model.encoder=vit-giant", "--to", str(tmp_path / "there.yaml")]


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["orchestrator", "plan", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_the_command_shows_the_plan_and_where_its_assumption_comes_from(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(monkeypatch, capsys, *files)
    assert (code, err) == (0, "")
    assert "ZeRO 1 (the job)" in out
    assert "13% of the GPUs' peak" in out
    assert "V-JEPA 2's published pretraining" in out
    assert "1.8" in out
    code, out, _ = call(monkeypatch, capsys, *files, "--json")
    assert code == 0
    assert json.loads(out)["sizes"][-1]["hosts"]["used"] == {"gpu": 2}


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_job_that_does_not_fit_is_planned_and_refused(
    files: list[str],
    more: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = call(monkeypatch, capsys, *files, "scale.workers=2000", *more)
    assert code == 2
    assert "1,024" in err
    assert "set scale.workers=1024" in err
    assert out  # what it needs is still shown
    if more:
        assert json.loads(out)["problem"]["what"] in err


def test_a_plan_of_1024_sizes_takes_under_a_second_and_no_heavy_library(files: list[str]) -> None:
    elastic = ["scale.workers={min: 1, max: 1024}", "scale.global_batch=3072", "--json"]
    code = (
        "import sys; sys.argv = ['orchestrator', 'plan', *sys.argv[1:]];"
        "from orchestrator.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'ray', 'mlflow', 'numpy', 'pyarrow'} & set(sys.modules)),"
        " file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *files, *elastic]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert len(json.loads(done.stdout)["sizes"]) == 1024
    assert cpu_seconds(command, limit=1.0) < 1.0
