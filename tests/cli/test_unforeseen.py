"""An error that nobody foresaw, thrown into each stage of each kind of job: what a person sees."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy.exc import OperationalError

from orchestrator import storage
from orchestrator.cli import main
from orchestrator.errors import JobFailed, RequestError
from orchestrator.unexpected import error_context, one_line, save_traceback, to_orchestrator_error
from tests.support.jobs import tiny_train_job

Call = Callable[..., tuple[int, str, str]]

TRAIN = tiny_train_job(optim={"steps": 2}, checkpoint={"every": 1})
MODEL = "models:/tiny@candidate"
SOURCE = {"source": "physics://mixed?clips=2&size=48&fps=8&seconds=2"}
OTHERS: dict[str, dict[str, Any]] = {
    "pack": {"kind": "pack", "name": "p", **SOURCE},
    "embed": {"kind": "embed", "name": "e", "model": MODEL, "data": SOURCE},
    "evaluate": {"kind": "evaluate", "name": "v", "model": MODEL},
    "promote": {"kind": "promote", "name": "c", "model": MODEL},
    "tune": {
        "kind": "tune",
        "name": "s",
        "train": {k: v for k, v in TRAIN.items() if k not in ("kind", "name")},
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-3]}},
        "search": "random",
        "trials": 2,
        "budget": 100,
    },
    "pipeline": {
        "kind": "pipeline",
        "name": "l",
        "stages": [{"name": "one", "job": {"kind": "pack", **SOURCE}}],
    },
}


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run a job in this process by the command line: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(job: dict[str, Any], *args: str) -> tuple[int, str, str]:
        (tmp_path / "job.yaml").write_text(json.dumps(job))
        argv = ["orchestrator", "run", "job.yaml", f"storage={tmp_path}/st", *args]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


def throw(monkeypatch: pytest.MonkeyPatch, place: str, error: Exception) -> None:
    """Make what is called by this name raise."""

    def raising(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(place, raising)


def kept_in(err: str) -> Path:
    """The file of the traceback that the last lines of an error name."""
    found = re.search(r"the traceback is in (\S+)$", err.strip())
    assert found, err
    return Path(found[1])


STAGES = {
    "orchestrator.job.load_job": "reading the job",
    "orchestrator.training.driver.prepare_data": "preparing the data",
    "orchestrator.training.run_setup.start_run": "beginning the run",
    "orchestrator.training.worker.Engine": "starting after step 0",
    "orchestrator.training.engine.engine.Engine.train_step": "taking a step after step 0",
    "orchestrator.training.callbacks.recorder.Recorder.on_step_end": "taking a step after step 0",
    "orchestrator.training.driver.export_model": "exporting the model",
    "orchestrator.training.driver.register_model": "registering the model",
    "orchestrator.tracking.run.write_result_description": "running the train job 'tiny'",
    "orchestrator.cli.run.show_summary": "showing the summary: the job is done",
}


@pytest.mark.integration
@pytest.mark.parametrize("place", STAGES)
def test_a_training_names_the_stage_and_the_file(
    call: Call, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with monkeypatch.context() as patch:
        throw(patch, place, RuntimeError("boom\nand more"))
        code, _, err = call(TRAIN, "--local")
    assert code == 1
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert f"RuntimeError: boom (while {STAGES[place]})" in line
    text = kept_in(err).read_text()
    assert "Traceback (most recent call last)" in text
    assert "and more" in text
    code, out, err = call(TRAIN, "--local")  # nothing is lost: the same command goes on
    assert (code, out.splitlines()[-1]) == (0, "model models:/tiny/1"), err


ERRORS = [
    RuntimeError("boom"),
    OSError(errno.EIO, "Input/output error"),
    OperationalError("INSERT INTO x\nVALUES (1)", {}, Exception("disk is full")),
    pa.ArrowInvalid("not a parquet file"),
    KeyError("x"),
    MemoryError(),
    AssertionError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RecursionError("maximum recursion depth exceeded"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("local", [True, False], ids=["local", "on Ray"])
def test_any_error_of_any_kind_is_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception, local: bool
) -> None:
    throw(monkeypatch, "orchestrator.training.driver.run_train", error)
    code, out, err = call(TRAIN, *["--local"][: int(local)])
    assert (code, out) == (1, "")
    first, second = err.strip().splitlines()
    assert first.startswith(f"error: tiny: unforeseen {type(error).__name__}")
    assert "running the train job" in first
    assert "Traceback" in kept_in(second).read_text()


KINDS = {
    "pack": "orchestrator.data.packing.pack.open_source",
    "embed": "orchestrator.features.driver.model_folder",
    "evaluate": "orchestrator.evaluation.suite.driver.pin_version",
    "promote": "orchestrator.tracking.registry.show_model",
    "tune": "orchestrator.tuning.sweep.check_sampled_trials",
    "pipeline": "orchestrator.pipeline.run_pipeline.check_stages",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_job_ends_with_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    throw(monkeypatch, KINDS[kind], RuntimeError("boom"))
    code, _, err = call(OTHERS[kind])
    assert code == 1, err
    first, second = err.strip().splitlines()
    assert f"unforeseen RuntimeError: boom (while running the {kind} job" in first
    assert "Traceback" in kept_in(second).read_text()


def test_the_file_is_in_the_run_s_folder_where_there_is_one(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "st/runs/tiny"
    folder.mkdir(parents=True)
    throw(monkeypatch, "orchestrator.training.driver.run_train", RuntimeError("boom"))
    _, _, err = call(TRAIN)
    assert kept_in(err).parent == folder / "errors"


@pytest.mark.integration
def test_a_checkpoint_that_cannot_be_written_is_told_with_its_reason(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RETRY_TIMEOUT_S", 0.0)
    throw(
        monkeypatch, "orchestrator.training.checkpoints.manager.write_slices", RuntimeError("boom")
    )
    code, _, err = call(TRAIN, "--local")
    assert code == 1
    assert "a checkpoint could not be written: RuntimeError: boom" in err
    assert "Traceback" in kept_in(err).read_text()
    full = OSError(errno.ENOSPC, "No space left on device")
    throw(monkeypatch, "orchestrator.training.checkpoints.manager.write_slices", full)
    code, _, err = call(TRAIN, "--local")
    assert code == 1
    assert "No space left on device" in err
    assert "traceback" not in err.lower()


def test_a_source_of_a_user_that_raises_is_told_with_its_file(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    throw(
        monkeypatch,
        "orchestrator.data.packing.unit._pack_and_commit",
        ZeroDivisionError("division by zero"),
    )
    code, _, err = call(OTHERS["pack"], "--local")
    assert code == 1
    assert "packing stopped: ZeroDivisionError: division by zero" in err
    assert "_pack_and_commit" in kept_in(err).read_text() or "raising" in kept_in(err).read_text()


class OfRay(RuntimeError):
    """As Ray hands an error of a worker over: its text is the worker's traceback."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("ray::f() (pid=1)\n  File 'x.py', line 1\nValueError: there")
        self.cause = cause


def test_an_error_of_a_ray_worker_is_told_by_its_cause() -> None:
    assert one_line(OfRay(ValueError("there"))) == "ValueError: there"
    told = to_orchestrator_error(OfRay(RequestError("too small", where="data.size")), "job")
    assert (told.exit_code, told.details, str(told)) == (2, "", "data.size: too small")


def test_the_innermost_stage_counts() -> None:
    with pytest.raises(KeyError) as caught, error_context("training"), error_context("saving"):
        raise KeyError("x")
    assert str(to_orchestrator_error(caught.value)).startswith(
        "unforeseen KeyError: 'x' (while saving)"
    )


def test_what_cannot_be_kept_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    error = JobFailed("it stopped", details="Traceback ...")
    save_traceback(error)
    assert "No space left on device" in str(error)
    assert "--debug shows it" in str(error)
