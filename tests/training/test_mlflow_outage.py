"""MLflow away at an edge of a training: one line, nothing lost; the next run sends what waits."""

from __future__ import annotations

import functools
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from orchestrator.cli import main
from orchestrator.storage import Storage
from orchestrator.tracking.live.run_logger import RunLogger
from orchestrator.tracking.registry import list_models
from orchestrator.tracking.server import mlflow_client, tracking_uri
from orchestrator.training.callbacks import recorder
from orchestrator.training.control.coordinator import LocalCoordinator
from orchestrator.training.run_record import RunTakenOver
from tests.support.jobs import tiny_train_job

pytestmark = pytest.mark.integration

STEPS = 4
JOB = tiny_train_job(optim={"steps": STEPS}, track={"pictures": 2})

Call = Callable[[], tuple[int, str, str]]


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run the job by the command line: exit code, stdout, stderr. The logger waits a moment."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(recorder, "RunLogger", functools.partial(RunLogger, close_timeout_s=0.3))
    (tmp_path / "job.yaml").write_text(json.dumps(JOB))
    argv = ["orchestrator", "run", f"{tmp_path}/job.yaml", "--local", f"storage={tmp_path}/st"]

    def run() -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


def raising(error: BaseException) -> Callable[..., Any]:
    def raises(*_: Any, **__: Any) -> Any:
        raise error

    return raises


FULL = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
AWAY = {
    "metrics": ("log_batch", MlflowException("no route to host")),
    "metrics, full disk": ("log_batch", FULL),
    "pictures": ("log_artifact", OSError(28, "No space left on device")),
    "checkpoints": ("search_logged_models", MlflowException("boom\n<html>")),
    "the model's files": ("log_model_artifacts", ConnectionResetError("cut")),
    "the version": ("create_model_version", MlflowException("boom")),
    "the alias": ("set_registered_model_alias", json.JSONDecodeError("no JSON", "<html>", 0)),
    "the end": ("set_terminated", MlflowException("boom")),
}


@pytest.mark.parametrize("what", AWAY)
def test_the_next_run_sends_what_the_first_could_not(
    train: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    call, error = AWAY[what]
    began = recorder.Recorder.__init__

    with monkeypatch.context() as patch:

        def from_now_on(*args: Any, **options: Any) -> None:
            began(*args, **options)
            patch.setattr(MlflowClient, call, raising(error))

        patch.setattr(recorder.Recorder, "__init__", from_now_on)
        code, out, err = train()
    assert code == 1
    assert "Traceback" not in out + err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "MLflow did not take" in line
    code, out, err = train()
    assert code == 0, err
    _is_all_there(tmp_path)


def _is_all_there(tmp_path: Path) -> None:
    """In MLflow: one run that is FINISHED, each row once, one version; nothing waits."""
    client = mlflow_client(tracking_uri(storage=Storage(f"{tmp_path}/st")))
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.status == "FINISHED"
    rows = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(row.step for row in rows) == list(range(1, STEPS + 1))
    pictures = client.list_artifacts(run.info.run_id, "pictures/masks")
    assert len(pictures) == 2
    (version,) = client.search_model_versions("name = 'tiny'")
    assert client.get_model_version_by_alias("tiny", "candidate").version == version.version
    assert list(Storage(f"{tmp_path}/st/runs/tiny/spool").files()) == []
    assert "Result:" in run.data.tags["mlflow.note.content"]


def test_a_note_that_is_not_taken_fails_nothing(
    train: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "list_artifacts", raising(MlflowException("boom")))
        code, out, err = train()
    if code == 1:  # pictures are looked for as well
        assert "MLflow did not take" in err
    else:
        assert "MLflow did not take the run's note" in out
    assert train()[0] == 0
    _is_all_there(tmp_path)


@pytest.mark.parametrize("call", ["get_experiment_by_name", "create_run", "log_inputs"])
def test_away_at_the_start_is_one_line(
    train: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, raising(MlflowException("boom\nand a page")))
        code, out, err = train()
    assert code == (1 if call == "log_inputs" else 2)
    assert "Traceback" not in out + err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert train()[0] == 0


def test_an_error_of_the_training_is_not_hidden_by_mlflow_s(
    train: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "on_step_end", raising(RuntimeError("the training's own")))
        patch.setattr(MlflowClient, "set_terminated", raising(MlflowException("away")))
        code, out, err = train()
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "the training's own" in line
    assert "shows RUNNING" in out
    assert train()[0] == 0
    _is_all_there(tmp_path)


def test_a_driver_that_was_overtaken_leaves_the_run_s_status_alone(
    train: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "on_step_end", raising(RunTakenOver("another driver")))
        code, _, err = train()
    assert (code, "another driver" in err) == (1, True)
    client = mlflow_client(tracking_uri(storage=Storage(f"{tmp_path}/st")))
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.status == "RUNNING"


def test_a_run_that_goes_on_at_its_last_step_is_registered_with_its_loss(
    train: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LocalCoordinator, "report_finished", raising(KeyboardInterrupt()))
        code, _, _ = train()
    assert code == 130
    code, out, _ = train()
    assert code == 0
    assert f"resumed at step {STEPS}" in out
    (version,) = list_models(tracking_uri(storage=Storage(f"{tmp_path}/st")))
    assert {"train_loss", "health_rankme"} <= version.metrics.keys()
