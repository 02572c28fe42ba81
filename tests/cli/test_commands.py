"""The command line as a person or a script meets it: exit codes, messages, speed."""

from __future__ import annotations

import ast
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import orchestrator.runner
from orchestrator.cli import main
from orchestrator.data.packing.kind import dataset_rows
from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import Job, build_job
from orchestrator.outcome import Outcome
from orchestrator.progress import Progress
from orchestrator.train_kind import metric_rows, next_steps, train_headline
from orchestrator.training.run_record import RunRecord
from tests.support.waiting import cpu_seconds

JOB = """\
kind: train
name: seen
data: {source: videos, size: 64}
model: {encoder: vit-tiny, patch: 8}
optim: {steps: 20}
"""

DATASET = {"clips": 1200, "hours": 1.5, "bytes": 3e7, "uris": ["d/ab12"], "quarantined": 3}
METRICS = {"train/loss": 0.51234, "health/rankme": 12.5}
SUMMARY = Outcome(
    kind="train",
    name="seen",
    storage=".orchestrator",
    seconds=192.0,
    dataset=DATASET,
    run_id="f00d",
    tracking_uri="sqlite:///mlflow.db",
    model_uri="models:/seen/3",
    checkpoint="c/step-00000020",
    steps=20,
    seconds_to_first_step=14.2,
    clips_per_s=25.25,
    metrics=METRICS,
    next_steps=["orchestrator ui"],
    headline=train_headline(20, 192.0, 25.25, 14.2),
    rows=[*dataset_rows(DATASET), *metric_rows(METRICS)],
    result="model models:/seen/3",
)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return str(path)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["orchestrator", *args])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The runner is replaced: what it was called with."""
    calls: list[dict[str, Any]] = []

    def run(job: Job, *, progress: Progress, **options: Any) -> Outcome:
        calls.append({"job": job, **options})
        progress.message("looking at 3 videos")
        progress.update("train", 20, 20, {"loss": 0.5})
        return SUMMARY

    monkeypatch.setattr(orchestrator.runner, "run", run)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(*_: Any, **__: Any) -> Outcome:
        raise error

    monkeypatch.setattr(orchestrator.runner, "run", run)


# -- exit codes ------------------------------------------------------------------------------


def test_a_wrong_request_is_exit_code_2(call: Call, job_file: str) -> None:
    code, out, err = call("run", job_file, "scale.wrokers=4")
    assert (code, out) == (2, "")
    assert err.startswith("error: override 'scale.wrokers=4'")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "args", [("fly",), ("run", "--fly"), ("plan",), ("plan", "x", "--clips=0")]
)
def test_a_wrong_command_is_exit_code_2(call: Call, args: tuple[str, ...]) -> None:
    code, _, err = call(*args)
    assert code == 2
    assert "Usage" in err


def test_a_failed_job_is_exit_code_1(
    call: Call, job_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, JobFailed("no disk left", where="/data", hint="free 3 GB, run it again"))
    code, _, err = call("run", job_file)
    assert code == 1
    assert err == "error: /data: no disk left\n  free 3 GB, run it again\n"


def test_debug_shows_where_an_error_came_from(
    call: Call, job_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, JobFailed("no disk left"))
    monkeypatch.setattr(sys, "argv", ["orchestrator", "run", job_file, "--debug"])
    with pytest.raises(JobFailed):
        main()


def test_a_bug_is_told_apart_from_a_mistake(
    call: Call, job_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    code, _, err = call("run", job_file)
    assert code == 1
    first, second = err.splitlines()
    assert first.endswith("unforeseen ZeroDivisionError: division by zero")
    assert "please report it" in second
    assert "Traceback" in Path(second.rpartition("the traceback is in ")[2]).read_text()


def test_ctrl_c_is_no_error(call: Call, job_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    code, _, err = call("run", job_file)
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err


# -- run -------------------------------------------------------------------------------------


def test_run_shows_one_screen(call: Call, job_file: str, ran: list[dict[str, Any]]) -> None:
    code, out, _ = call("run", job_file, "optim.steps=30", "--fresh", "--local")
    assert code == 0
    assert ran[0]["job"].optim.steps == 30
    assert (ran[0]["fresh"], ran[0]["local"], ran[0]["profile"]) == (True, True, False)
    said = ("20 steps in 3 min 12 s", "25.2 clips/s", "first step after 14 s", "1,200 clips",
            "3 quarantined", "loss 0.5123", "RankMe 12.5", "models:/seen/3", "f00d",
            "c/step-00000020", "orchestrator ui", "looking at 3 videos")  # fmt: skip
    assert [text for text in said if text not in out] == []
    assert len(out.splitlines()) < 24


def test_quiet_says_the_last_line_only(
    call: Call, job_file: str, ran: list[dict[str, Any]]
) -> None:
    code, out, err = call("run", job_file, "--quiet")
    assert (code, out, err) == (0, "model models:/seen/3\n", "")


def test_json_has_stdout_for_itself(call: Call, job_file: str, ran: list[dict[str, Any]]) -> None:
    code, out, err = call("run", job_file, "--json")
    assert code == 0
    assert json.loads(out)["model_uri"] == "models:/seen/3"
    assert "looking at 3 videos" in err


def test_run_wants_one_job(call: Call, job_file: str) -> None:
    assert call("run")[0] == 2
    code, _, err = call("run", job_file, "--from", "f00d")
    assert code == 2
    assert "not both" in err


# -- plan and schema -------------------------------------------------------------------------


def test_plan_is_a_table_or_json(call: Call, job_file: str) -> None:
    code, out, _ = call("plan", job_file, "--gpu", "h200", "--clips", "640")
    assert code == 0
    for text in ("ZeRO 3", "20.0 steps", "parameters", "the job as it is fits"):
        assert text in out
    code, out, _ = call("plan", job_file, "scale.workers=3", "--json")
    assert code == 0
    assert json.loads(out)["batch"]["world"] == 3


def test_plan_refuses_what_it_cannot_plan(call: Call, tmp_path: Path) -> None:
    promote = tmp_path / "promote.yaml"
    promote.write_text("kind: promote\nname: p\nmodel: models:/m/1\n")
    code, _, err = call("plan", str(promote))
    assert code == 2
    assert "a job of kind 'promote' has no plan" in err


def test_plan_of_another_kind_says_what_is_not_known(call: Call, tmp_path: Path) -> None:
    pack = tmp_path / "pack.yaml"
    pack.write_text("kind: pack\nname: p\nsource: videos\n")
    code, out, _ = call("plan", str(pack))
    assert code == 0
    assert "- not known: clips and bytes of the dataset" in out
    code, out, _ = call("plan", str(pack), "--clips", "64", "--json")
    assert code == 0
    assert (json.loads(out)["units"], json.loads(out)["hours"]) == (2, None)


def test_schema_lists_every_key_with_its_meaning(call: Call) -> None:
    code, out, _ = call("jobs", "schema", "train")
    assert code == 0
    assert "lr: 0.000525" in out
    assert "Clips per optimizer step over all workers" in " ".join(out.replace("#", "").split())
    code, out, _ = call("jobs", "schema", "pack", "--json")
    assert json.loads(out)["properties"]["videos_per_unit"]["default"] == 32
    code, _, err = call("jobs", "schema", "trian")
    assert code == 2
    assert "did you mean 'train'" in err


# -- speed -----------------------------------------------------------------------------------


COMMAND = [sys.executable, "-m", "orchestrator"]


def test_help_comes_at_once() -> None:
    assert cpu_seconds([*COMMAND, "--help"], limit=0.3) < 0.3


@pytest.mark.integration
def test_a_plan_comes_within_a_second(job_file: str) -> None:
    assert cpu_seconds([*COMMAND, "plan", job_file], limit=1.0) < 1.0


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.ray_session import ray_session

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(RequestError, match="no Ray cluster answers"), ray_session():
        pass


# -- hints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["/data/my runs", "/it's/here", "s3://b/a&b", '/say "x" $HOME'])
def test_hints_work_in_a_shell_as_they_stand(storage: str) -> None:
    job = build_job(
        {
            "kind": "train",
            "name": "t",
            "storage": storage,
            "data": {"source": "v"},
            "optim": {"steps": 1},
        }
    )
    record = RunRecord("t", "f", {}, {}, "d", model_uri=f"{storage}/runs/t/model")
    record.mlflow_uri = f"sqlite:///{storage}/mlflow.db"
    ui, load, trace = next_steps(job, record, profile=True)
    assert shlex.split(ui, comments=True) == ["orchestrator", "ui", "--storage", storage]
    variable, *command = shlex.split(load)
    assert variable == f"MLFLOW_TRACKING_URI={record.mlflow_uri}"
    assert command[:2] == ["python", "-c"]
    call = ast.parse(command[2]).body[-1].value.args[0]
    assert ast.literal_eval(call.args[0]) == record.model_uri
    assert shlex.split(trace, comments=True) == [f"{storage}/runs/t/profile/trace.json"]
