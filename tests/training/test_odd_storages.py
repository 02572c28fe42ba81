"""Runs in storages of odd names: everything lies in them, and what is printed can be pasted."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_rollback import diverging_job

from orchestrator.errors import RequestError
from orchestrator.job import build_job, job_dict
from orchestrator.runner import run
from orchestrator.tracking.registry import load_model

NAMES = ["what?x=1", "feature%2Fx", "a#b", "sp ace ünï 視 'quoted' $HOME"]


def job_in(storage: str, folder: Path, **keys: Any) -> Any:
    data = job_dict(diverging_job(folder, last=0))
    data["objective"] = {"kind": "vjepa2", "ema": 0.9, "masks": data["objective"]["masks"]}
    data |= {"storage": storage, "optim": {"steps": 2, "warmup": 0}, **keys}
    data["track"] |= {"register": "odd"}
    return build_job(data)


@pytest.mark.integration
@pytest.mark.parametrize("name", NAMES)
def test_everything_of_a_run_lies_in_its_storage(name: str, tmp_path: Path) -> None:
    storage = tmp_path / name
    summary = run(job_in(str(storage), tmp_path), local=True)
    assert [found for found in os.listdir(tmp_path) if found != name] == []
    assert sorted(os.listdir(storage)) == ["datasets", "mlflow", "runs"]
    assert load_model(summary.model_uri, tracking_uri=summary.tracking_uri).config.size == 32

    ui, show = (shlex.split(step, comments=True) for step in summary.next_steps)
    assert ui == ["orchestrator", "ui", "--storage", str(storage)]
    variable, *command = show
    assert variable == f"MLFLOW_TRACKING_URI={summary.tracking_uri}"
    assert command[:2] == ["python", "-c"]
    compile(command[2], "hint", "exec")


@pytest.mark.integration
def test_a_home_folder_in_a_job_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    run(job_in("~/runs", tmp_path), local=True)
    assert os.listdir(tmp_path / "work") == []
    assert (tmp_path / "home" / "runs" / "mlflow" / "mlflow.db").exists()


@pytest.mark.parametrize("storage", ["file", "file/below", "s3://", "s3:/b", "~none/x", "$NONE/x"])
def test_a_storage_that_cannot_be_starts_nothing(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as error:
        run(job_in(storage, tmp_path), local=True)
    assert error.value.exit_code == 2
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("RAY_ADDRESS", "not-an-address", "'not-an-address'"),
        ("RAY_ADDRESS", "http://127.0.0.1:8265", "'http://127.0.0.1:8265'"),
        ("RAY_ADDRESS", "127.0.0.1:9", "at 127.0.0.1:9"),
        ("TMPDIR", "/dev/null/x", "/dev/null/x"),
        ("MLFLOW_TRACKING_URI", "sqlite:////dev/null/x/mlflow.db", "in /dev/null/x"),
    ],
)
def test_an_environment_that_cannot_be_ends_with_one_line(
    variable: str, value: str, named: str, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps(job_dict(job_in(str(tmp_path / "storage"), tmp_path))))
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run", str(job)],
        cwd=tmp_path,
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert (
        value in done.stderr or value.rpartition("/")[0].removeprefix("sqlite:///") in done.stderr
    )


@pytest.mark.integration
def test_ray_runs_with_a_long_temporary_folder_and_no_home(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps(job_dict(job_in(str(tmp_path / "storage"), tmp_path))))
    long = tmp_path / ("a" * 120)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run", str(job)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(long), "HOME": "/dev/null/home"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
