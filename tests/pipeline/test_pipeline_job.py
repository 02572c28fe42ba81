"""A pipeline from its file to its champion: what is refused before a start, and what goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from orchestrator.errors import RequestError
from orchestrator.evaluation.suite import driver as evaluation
from orchestrator.job import (
    PipelineJob,
    TrainJob,
    build_job,
    explicit_job_dict,
    fingerprint,
    identity,
    load_job,
)
from orchestrator.pipeline.compatibility import check_stages
from orchestrator.pipeline.run_pipeline import _sigterm_as_interrupt
from orchestrator.pipeline.stage_store import StageOutputs, StageStore, archive_stages
from orchestrator.runner import run
from orchestrator.storage import Storage
from orchestrator.tracking import model_uri as locate
from orchestrator.training.control.signals import Stopped

SHARED = {
    "kind": "train",
    "name": "gives-way",
    "data": {"source": "stages:/pack/data", "frames": 8, "fps": 8.0, "size": 32,
             "decode_threads": 1},
    "model": {"encoder": {"dim": 24, "depth": 1, "heads": 2}, "patch": 8,
              "predictor": {"dim": 12, "depth": 1, "heads": 2}},
    "objective": {"kind": "vjepa2", "ema": 0.9, "masks": [{"targets": 0.5, "context": 0.24}]},
    "optim": {"steps": 2, "lr": 1e-3},
    "scale": {"workers": 1, "zero": 0, "global_batch": 2, "micro_batch": 2, "precision": "fp32",
              "device": "cpu"},
    "track": {"every": 1, "pictures": 0, "experiment": "another"},
}  # fmt: skip
COOLDOWN = {
    "model.from": "stages:/pretrain/model",
    "data.frames": 12,
    "data.size": 48,
    "optim": {"steps": 1, "lr": 1e-12, "weight_decay": 0.0},
    "track.register": "tiny-ladder",
}
JUDGE = {
    "kind": "evaluate",
    "model": "stages:/cooldown/model",
    "suite": {"scenarios": ["fall"], "quads": 1, "choose_quads": 1, "frames": 24, "sanity": 0,
              "arrow": 0},
    "surprise": {"contexts": [4]},
    "random": 0,
}  # fmt: skip
PACK = {"kind": "pack", "source": "physics://drop?clips=4&size=48&fps=8&seconds=3"}


def ladder(storage: Path | str = "nowhere", *overrides: str) -> PipelineJob:
    stages = [
        {"name": "pack", "job": PACK},
        {"name": "pretrain", "job": SHARED},
        {"name": "cooldown", "job": SHARED, "set": COOLDOWN},
        {"name": "judge", "job": JUDGE},
        {"name": "promote", "job": {"kind": "promote", "model": "stages:/cooldown/model"}},
    ]
    data = {"kind": "pipeline", "name": "tiny", "storage": str(storage), "stages": stages}
    job = build_job({**data, "track": {"experiment": "ladders"}}, overrides)
    assert isinstance(job, PipelineJob)
    return job


def test_a_stage_runs_in_the_pipelines_place_with_what_is_set_for_it() -> None:
    job = ladder("s3://lab/jepa", "stages.cooldown.job.optim.lr=0.5")
    jobs = {stage.name: stage.job for stage in job.stages}
    pretrain, cooldown = jobs["pretrain"], jobs["cooldown"]
    assert isinstance(pretrain, TrainJob)
    assert isinstance(cooldown, TrainJob)
    assert {one.name for one in jobs.values()} == {f"tiny.{name}" for name in jobs}
    assert {one.storage for one in jobs.values()} == {"s3://lab/jepa"}
    assert pretrain.track.experiment == cooldown.track.experiment == "ladders"
    assert (pretrain.data.frames, cooldown.data.frames, cooldown.optim.lr) == (8, 12, 0.5)
    assert pretrain.track.register_as is None


def test_it_travels_as_plain_data_and_moving_it_changes_nothing() -> None:
    job = ladder()
    assert build_job(explicit_job_dict(job)) == job
    assert fingerprint(ladder("s3://elsewhere")) == fingerprint(job)
    changed = identity(ladder("nowhere", "stages.pretrain.job.optim.lr=2e-3"))
    assert changed["pretrain.optim.lr"] == 2e-3
    assert {key for key, value in identity(job).items() if changed[key] != value} == {
        "pretrain.optim.lr"
    }


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("cooldown.job.model.from=stages:/pretrian/model", "refers to 'pretrian'.*'pretrain'?"),
        ("cooldown.job.model.from=stages:/", "'stages:/' names no result of a stage"),
        ("cooldown.job.model.from=stages:/pretrain", "names no result of a stage"),
        ("cooldown.job.model.from=stages:/judge/model", "a circle of stages: cooldown -> judge"),
        ("pretrain.job.data.source=stages:/promote/data", "pretrain -> promote -> cooldown -> pre"),
        ("judge.job.model=stages:/judge/model", "'judge', itself"),
        ("pack.job.source=stages:/pretrain/data", "a circle of stages: pack -> pretrain -> pack"),
        ("cooldown.job.model.from=stages:/pack/model", "a stage of kind pack leaves data"),
        ("cooldown.job.model.from=stages:/pack/data", "for its data, where a key stands that tak"),
        ("promote.job.model=stages:/pretrain/model", "stage 'pretrain' registers no model"),
        ("judge.job.model=stages:/pretrain/model", "no stage before it judges 'stages:/cooldown"),
        ("1.name=pack", "'pack' is the name of a stage before it"),
        ("1.name=a.b", "stages.1.name"),
        ("judge.job.kind=pipeline", "the job of stage 'judge' is itself a pipeline"),
        ("judge.job.kind=evalute", "unknown kind 'evalute'"),
        ("judge.job=nowhere.yaml", "stages.3.job: cannot read the job file"),
        ("nobody.job.model=x", "'nobody' is no position"),
        ("pretrain.job.optim.stps=3", "optim.stps: unknown key; did you mean 'steps'?"),
    ],
)
def test_what_refers_to_nothing_or_in_a_circle_is_refused(override: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        ladder("nowhere", f"stages.{override}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cooldown.job.model.encoder.depth=2"], "stage 'cooldown': .* 'pretrain': model.encoder"),
        (["cooldown.job.model.encoder.heads=4"], r"model.encoder.heads: 2 -> 4"),
        (["cooldown.job.objective.masks=[{targets: 0.5, context: 0.2}, {targets: 0.4}]"], "mask_t"),
        (["cooldown.job.objective={kind: pixels}"], "stage 'cooldown': it cannot start from"),
        (["judge.job.suite.frames=8"], "stage 'judge': after stage 'cooldown': suite.frames"),
    ],
)
def test_a_stage_of_another_shape_is_refused_by_name(overrides: list[str], said: str) -> None:
    check_stages(ladder(), local=True)
    with pytest.raises(RequestError, match=said):
        check_stages(ladder("nowhere", *(f"stages.{one}" for one in overrides)), local=True)


def test_stages_that_have_begun_stay_and_later_ones_may_change(tmp_path: Path) -> None:
    ledger, job = StageStore(Storage(str(tmp_path))), ladder()
    ledger.mark_done(job.stages[0], StageOutputs(1.0, data="somewhere"))
    ledger.mark_started(job.stages[1])
    later = ladder("nowhere", "stages.judge.job.suite.seed=1", "stages.cooldown.job.optim.lr=1")
    ledger.check_unchanged(later)
    with pytest.raises(RequestError, match=r"'pretrain' is begun .*\n.*optim.lr: 0.001 -> 1") as no:
        ledger.check_unchanged(ladder("nowhere", "stages.pretrain.job.optim.lr=1.0"))
    assert "--fresh" in no.value.hint
    entry = ledger.read(job.stages[0])
    assert entry is not None
    assert entry.left == StageOutputs(1.0, data="somewhere")


def test_sigterm_ends_a_stage_that_has_no_rule_of_its_own() -> None:
    with pytest.raises(KeyboardInterrupt), _sigterm_as_interrupt() as asked:
        signal.raise_signal(signal.SIGTERM)
    assert Stopped("", where="").with_signal(asked.signal).exit_code == 143
    with _sigterm_as_interrupt() as asked:
        assert asked.signal is None


def test_the_shipped_pipeline_fits() -> None:
    job = load_job("jobs/physics/pipeline.yaml")
    assert isinstance(job, PipelineJob)
    assert len(job.stages) == 4
    check_stages(job, local=False)


def test_a_model_under_a_remote_storage_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(locate, "is_remote", lambda uri: True)
    with locate.model_folder(str(tmp_path)) as folder:
        assert folder != tmp_path
        assert (folder / "model.safetensors").read_bytes() == b"weights"
    with pytest.raises(RequestError, match="no model here"), locate.model_folder("nowhere"):
        pass


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.integration
def test_it_goes_on_with_the_stage_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    job, judged = ladder(tmp_path), evaluation.evaluate_suite

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the lights went out")

    monkeypatch.setattr(evaluation, "evaluate_suite", broken)
    with pytest.raises(RuntimeError, match="lights"):
        run(job, local=True)
    monkeypatch.setattr(evaluation, "evaluate_suite", judged)
    begun = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/checkpoints/*/*")}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name == "ladders")

    def runs() -> dict[str, Any]:
        found = client.search_runs([experiment.experiment_id])
        assert len({one.info.run_name for one in found}) == len(found), "no run twice"
        return {str(one.info.run_name): one for one in found}

    assert runs()["tiny"].info.status == "FAILED"
    assert set(runs()) == {"tiny", "tiny.pack", "tiny.pretrain", "tiny.cooldown"}

    summary = run(job, local=True)
    assert [row["state"] for row in summary.stages] == ["kept", "kept", "kept", "done", "done"]
    assert begun == {path: path.stat().st_mtime_ns for path in begun}, "nothing is trained again"
    found = runs()
    parent = found.pop("tiny")
    assert parent.info.run_id == summary.run_id
    assert {one.data.tags["mlflow.parentRunId"] for one in found.values()} == {summary.run_id}
    assert {one.info.status for one in [parent, *found.values()]} == {"FINISHED"}
    assert found["tiny.judge"].data.tags["pipeline.stage"] == "judge"
    assert "cooldown/train/loss" in parent.data.metrics
    assert (
        client.get_model_version_by_alias("tiny-ladder", "champion").run_id
        == found["tiny.cooldown"].info.run_id
    )

    # A learning rate of nothing: at more frames and pixels it is still the model it began with.
    before, after = (weights(tmp_path / f"runs/tiny.{name}/model") for name in
                     ("pretrain", "cooldown"))  # fmt: skip
    assert before.keys() == after.keys()
    assert max(float((before[key] - after[key]).abs().max()) for key in before) < 1e-6
    config = (tmp_path / "runs/tiny.cooldown/model/config.json").read_text()
    assert '"frames": 12' in config

    again = run(job, local=True)
    assert {row["state"] for row in again.stages} == {"kept"}
    assert set(runs()) == {"tiny", *found}
    with pytest.raises(RequestError, match="'pretrain' is done with other values"):
        run(ladder(tmp_path, "stages.pretrain.job.optim.steps=3"), local=True)
    job_file = client.download_artifacts(summary.run_id, "job.yaml", str(tmp_path))
    assert load_job(job_file) == job


def test_fresh_sets_the_old_one_aside(tmp_path: Path) -> None:
    job, storage = ladder(tmp_path), Storage(str(tmp_path))
    storage.write_json("pipelines/tiny/mlflow.json", {"run_id": "0123456789abcdef"})
    StageStore(storage.subfolder("pipelines", "tiny")).mark_started(job.stages[1])
    for path in ("runs/tiny.pretrain/run.json", "evaluations/tiny.judge/verdict.json"):
        storage.write_json(path, {})
    archive_stages(job, storage)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*"))
    assert left == [
        "evaluations/tiny.judge.until-01234567",
        "pipelines/tiny.until-01234567",
        "runs/tiny.pretrain.until-01234567",
    ]
    archive_stages(job, storage)  # nothing is left to move


@pytest.mark.integration
def test_a_student_is_taught_by_the_stage_before(tmp_path: Path) -> None:
    """SALT in one file: the teacher's shape is not the student's, and need not be."""
    source = "physics://drop?clips=4&size=48&fps=8&seconds=3"
    alike = {**SHARED, "data": {**SHARED["data"], "source": source}}  # type: ignore[dict-item]
    wide = {
        "encoder": {"dim": 48, "depth": 1, "heads": 2},
        "patch": 8,
        "predictor": {"dim": 12, "depth": 1, "heads": 2},
    }
    teaches = {**alike, "model": wide, "objective": {"kind": "pixels"}}
    learns = {**alike, "objective": {"kind": "frozen", "teacher": "stages:/teach/model"}}
    stages = [{"name": "teach", "job": teaches}, {"name": "learn", "job": learns}]
    data = {"kind": "pipeline", "name": "salt", "storage": str(tmp_path), "stages": stages}
    found = run(build_job(data), local=True)
    assert [row["state"] for row in found.stages] == ["done", "done"]
    config = json.loads((tmp_path / "runs" / "salt.learn" / "model" / "config.json").read_text())
    assert config["job"]["objective"]["encoder"]["dim"] == 48
    assert config["model"]["encoder"]["dim"] == 24
