"""Checkpoints are judged while training goes on: beside two workers on Ray, and in one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from orchestrator.job import TrainJob, build_job
from orchestrator.outcome import Outcome
from orchestrator.progress import SilentProgress
from orchestrator.runner import run
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.manager import list_complete_checkpoints, read_full_tensors

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 30, 10
PATIENCE_S = 600.0


def watched(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two workers on two cores: none is left for an evaluation that wants a whole one."""
    return {
        "kind": "train",
        "name": "watched",
        "storage": str(folder / "storage"),
        "data": {
            "source": "physics://drop?clips=8&size=32&fps=8&seconds=2",
            "frames": 8,
            "fps": 8.0,
            "size": 32,
            "decode_threads": 1,
        },
        "model": {
            "encoder": {
                "kind": "tests.support.controllable_encoder:ControllableEncoder",
                "folder": str(folder),
            },
            "patch": 8,
            "predictor": {"depth": 1, "dim": 24, "heads": 2},
        },
        "objective": {"masks": [{"targets": 0.5, "context": 0.25}]},
        "optim": {"steps": STEPS, "lr": 1e-3},
        "scale": {
            "workers": 2, "cpus": 0.7, "global_batch": 4, "micro_batch": 2, "precision": "fp32",
        },
        "checkpoint": {"every": 15, "keep_last": 1},
        "track": {"experiment": "watched", "every": 5, "pictures": 0},
        "evaluate": [
            {
                "every": EVERY,
                "job": {
                    "name": "physics",
                    "suite": {
                        "scenarios": ["support"], "quads": 2, "choose_quads": 2,
                    },
                    "random": 0,
                },
            }
        ],
        **changes,
    }  # fmt: skip


def job_of(data: dict[str, Any]) -> TrainJob:
    job = build_job(data)
    assert isinstance(job, TrainJob)
    return job


class Heard(SilentProgress):
    """Remembers what a run says, and acts on it."""

    def __init__(self, act: Callable[[str], None] = lambda text: None) -> None:
        self.lines: list[str] = []
        self.act = act

    def message(self, text: str) -> None:
        self.lines.append(text)
        self.act(text)


def steps_of(summary: Outcome, key: str) -> list[int]:
    history = MlflowClient(summary.tracking_uri).get_metric_history(
        summary.run_id, f"eval/physics/{key}"
    )
    return [row.step for row in history]


@pytest.fixture(autouse=True)
def _encoder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_beside_two_workers_and_a_failure_stops_nothing(tmp_path: Path) -> None:
    """The workers hold their cores and go no further before step 10 is judged."""

    def fail_from_now_on(text: str) -> None:
        if text.startswith("physics of step 10:"):
            (tmp_path / "fail").touch()
            (tmp_path / "hold").unlink()

    (tmp_path / "hold").touch()
    heard = Heard(fail_from_now_on)
    data = watched(tmp_path)
    data["scale"]["timeout"] = 1500
    summary = run(job_of(data), progress=heard)
    told = "\n".join(heard.lines)
    assert summary.checkpoint == "step-00000030"
    assert MlflowClient(summary.tracking_uri).get_run(summary.run_id).info.status == "FINISHED"
    assert steps_of(summary, "quad_accuracy") == [10]
    failed, skipped = steps_of(summary, "failed"), steps_of(summary, "skipped")
    assert sorted([10, *failed, *skipped]) == [10, 20, 30]
    assert failed[-1] == 30
    assert "physics of step 30 failed, training goes on: ValueError: it is in a mood" in told
    assert told.index("physics of step 10: quads") < told.index("the training is done; physics of")
    assert "evaluations find no 1 free cores beside the workers" in told
    error = Storage(summary.storage).read_json(
        "runs/watched/evaluations/physics/step-00000030/result.json"
    )["error"]
    assert "controllable_encoder.py" in error, "the whole traceback is kept"
    page = tmp_path / "storage/runs/watched/evaluations/physics/step-00000010/report.html"
    assert "watched, step 10" in page.read_text()
    losses = MlflowClient(summary.tracking_uri).get_metric_history(summary.run_id, "train/loss")
    assert [row.step for row in losses] == list(range(5, STEPS + 1, 5))


@pytest.mark.nightly
def test_in_one_process_every_due_step_is_judged_and_nothing_else_is_learnt(
    tmp_path: Path,
) -> None:
    scale = {"global_batch": 4, "micro_batch": 4, "precision": "fp32"}
    with_it = watched(tmp_path, scale=scale)
    without = {**with_it, "name": "plain", "evaluate": []}
    first = run(job_of(with_it), local=True, progress=Heard())
    second = run(job_of(without), local=True, progress=Heard())
    assert steps_of(first, "quad_accuracy") == [10, 20, 30]
    assert first.metrics["eval/physics/quad_accuracy"] >= 0
    a, b = (
        read_full_tensors(
            Storage(one.storage).subfolder("runs", one.name, "checkpoints"), one.checkpoint
        )
        for one in (first, second)
    )
    assert all(np.array_equal(a[name].numpy(), b[name].numpy()) for name in a)
    client = MlflowClient(first.tracking_uri)
    (model,) = [
        model
        for model in client.search_logged_models([client.get_run(first.run_id).info.experiment_id])
        if model.name == "step-00000030" and model.source_run_id == first.run_id
    ]
    found = {metric.key: metric.step for metric in model.metrics or []}
    assert found["eval/physics/quad_accuracy"] == 30


@pytest.mark.nightly
def test_a_killed_driver_and_a_signal_leave_evaluations_to_the_next_launch(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(watched(tmp_path)))
    (tmp_path / "wait").touch()
    place = Storage(str(tmp_path / "storage/runs/watched"))

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "orchestrator", "run", str(file)]
        with open(tmp_path / "log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            log = (tmp_path / "log").read_text()
            assert process.poll() is None, f"the run ended: {log}"
            assert time.monotonic() < deadline, f"it never came: {log}"
            time.sleep(0.05)

    process = start()
    first = "evaluations/physics/step-00000010"
    wait_for(process, lambda: place.exists(f"{first}/model/config.json"))
    wait_for(process, lambda: len(list_complete_checkpoints(place.subfolder("checkpoints"))) > 0)
    process.kill()
    process.wait()
    assert not place.exists(f"{first}/result.json")

    process = start()  # it trains to the end, and then waits
    wait_for(process, lambda: "is waited for" in (tmp_path / "log").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    said = (tmp_path / "log").read_text()
    assert "its last evaluation was given up" in said
    assert "Traceback" not in said

    (tmp_path / "wait").unlink()
    heard = Heard()
    summary = run(job_of(watched(tmp_path)), progress=heard)
    done, skipped = steps_of(summary, "quad_accuracy"), steps_of(summary, "skipped")
    assert (done[0], done[-1]) == (10, 30), "what went on when the driver died, and the last step"
    assert sorted(done + skipped) == [10, 20, 30]
    assert "trained already" in "\n".join(heard.lines)
    assert not [entry for entry in place.files("evaluations") if "/model/" in entry.path]
