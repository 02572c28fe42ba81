"""A whole sweep on Ray, whose driver is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweeps import tune_job

from orchestrator.errors import RequestError
from orchestrator.job import job_dict
from orchestrator.runner import run
from orchestrator.storage import Storage
from orchestrator.tracking.server import client_of

TRIALS = 3


def command(job_file: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", "run", str(job_file), "--json", *more]


def states(folder: Path) -> list[str]:
    files = sorted(folder.glob("sweeps/search/trials/*.json"))
    return [json.loads(file.read_text())["state"] for file in files]


@pytest.mark.nightly
@pytest.mark.integration
def test_a_sweep_whose_driver_is_killed_ends_with_every_trial_once_and_a_candidate(
    tmp_path: Path,
) -> None:
    first = [
        {"optim.lr": 1e-2, "objective.ema": 0.0},
        {"optim.lr": 1e-3, "objective.ema": 0.99},
    ]
    job = tune_job(tmp_path, "train.track.register=tuned", trials=TRIALS, first=first)
    job_file = tmp_path / "job.yaml"
    job_file.write_text(yaml.safe_dump(job_dict(job)))

    driver = subprocess.Popen(command(job_file), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 1500
    while states(tmp_path)[1:2] != ["running"]:  # the second is on its way
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = (tmp_path / "sweeps/search/trials/0000.json").read_bytes()
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()

    done = subprocess.run(command(job_file), capture_output=True, text=True, check=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    trials = {row["number"]: row for row in summary["verdict"]["trials"]}
    assert sorted(trials) == list(range(TRIALS))
    assert (trials[0]["state"], trials[0]["steps"]) == ("collapsed", 2)
    assert (tmp_path / "sweeps/search/trials/0000.json").read_bytes() == before, "none runs twice"
    assert trials[1]["state"] == trials[2]["state"] == "done"
    best = max(trials[1]["objective"], trials[2]["objective"])
    assert trials[summary["verdict"]["best"]]["objective"] == best

    client = client_of(summary["tracking_uri"])
    version = client.get_model_version_by_alias("tuned", "candidate")
    assert summary["model_uri"] == f"models:/tuned/{version.version}"
    assert version.tags["sweep_run"] == summary["run_id"]
    parent = client.get_run(summary["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/objective"] == pytest.approx(best)
    files = {file.path for file in client.list_artifacts(summary["run_id"])}
    assert {"job.yaml", "report.html", "report.png", "sweep.json"} <= files
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{summary['run_id']}'"
    )
    shown = {run.info.run_name: run for run in children}
    assert sorted(shown) == [f"search.t{number:04d}" for number in range(TRIALS)]
    assert shown["search.t0000"].info.status == "KILLED"
    assert shown["search.t0000"].data.tags["sweep.state"] == "collapsed"
    assert shown["search.t0001"].info.status == "FINISHED"


def test_local_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--local is not for tune jobs"):
        run(tune_job(tmp_path), local=True)
    assert not Storage(str(tmp_path)).exists("sweeps")
