"""Whole sweeps on Ray, whose drivers are stopped and killed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from orchestrator.errors import RequestError
from orchestrator.job import TuneJob, job_dict
from orchestrator.runner import run
from orchestrator.storage import Storage
from orchestrator.tracking.server import mlflow_client
from orchestrator.training.audit import audit_run
from orchestrator.tuning.pbt_exploit import current_population
from orchestrator.tuning.pbt_fork import read_generations
from orchestrator.tuning.trial_store import TrialRecord, TrialStore
from tests.support.sweeps import make_trial, run_to_end, tune_job

TRIALS = 3
FIRST = [{"optim.lr": 1e-2, "objective.ema": 0.0}, {"optim.lr": 1e-3, "objective.ema": 0.99}]


def command(folder: Path, job: TuneJob) -> list[str]:
    """The sweep as a person starts it."""
    folder.mkdir(exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(job_dict(job)))
    return [sys.executable, "-m", "orchestrator", "run", str(folder / "job.yaml"), "--json"]


def strike(
    command: list[str],
    ledger: TrialStore,
    blow: signal.Signals,
    when: Callable[[list[TrialRecord]], bool],
) -> tuple[int, str]:
    """Start a driver and strike it as soon as the ledger says so; its exit code and last words."""
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 1500
    while not when(ledger.records()):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, blow)
    words = driver.communicate(timeout=600)[1]
    return driver.returncode, words


def rungs(entries: list[TrialRecord]) -> int:
    return sum(len(entry.rungs) for entry in entries)


@pytest.mark.nightly
@pytest.mark.integration
def test_a_sweep_stopped_once_and_killed_three_times_ends_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    # What it must come to: the same trials one after the other in this process, without Ray.
    torch.set_num_threads(1)
    calm = tune_job(tmp_path / "calm", trials=TRIALS, first=FIRST)
    struck = tune_job(tmp_path, "train.track.register=tuned", trials=TRIALS, first=FIRST)
    start = command(tmp_path, struck)
    ledger = TrialStore(Storage(struck.storage).subfolder("sweeps", struck.name))

    def checkpointed(entries: list[TrialRecord]) -> bool:
        return any((tmp_path / "runs").glob("*/workers.json"))

    code, words = strike(start, ledger, signal.SIGTERM, checkpointed)
    assert code == 143, words
    assert "stopped and saved" in words
    assert "the same command goes on" in words
    finals: dict[int, bytes] = {}
    for seen in (2, 3, 4):
        code, _ = strike(start, ledger, signal.SIGKILL, lambda now, n=seen: rungs(now) >= n)
        assert code == -signal.SIGKILL
        for entry in ledger.records():
            file = tmp_path / f"sweeps/search/trials/{entry.number:04d}.json"
            if entry.is_final:
                assert finals.setdefault(entry.number, file.read_bytes()) == file.read_bytes()
    done = subprocess.run(start, capture_output=True, text=True, check=True)
    summary: dict[str, Any] = json.loads(done.stdout)

    trials = {row["number"]: row for row in summary["verdict"]["trials"]}
    assert sorted(trials) == list(range(TRIALS))
    assert (trials[0]["state"], trials[0]["steps"]) == ("collapsed", 2)
    for number, before in finals.items():
        file = tmp_path / f"sweeps/search/trials/{number:04d}.json"
        assert file.read_bytes() == before, "what has ended is never run again"
    assert all(audit_run(Storage(str(tmp_path)), f"search.t{n:04d}").good for n in range(TRIALS))
    ends = [run_to_end(make_trial(calm, n, trials[n]["values"])) for n in range(TRIALS)]
    for end in ends:
        assert trials[end.number]["state"] == end.state
        assert trials[end.number]["objective"] == pytest.approx(end.objective, abs=1e-6)
    best = max((end for end in ends if end.state == "done"), key=lambda end: end.objective or 0.0)
    assert summary["verdict"]["best"] == best.number
    check_tracking(summary)
    again = summary["next_steps"][0].split("   #")[0]
    subprocess.run([sys.executable, "-m", *shlex.split(again)], check=True)


def check_tracking(summary: dict[str, Any]) -> None:
    """One parent, a child for each trial, ended as the trial ended, and a candidate."""
    client = mlflow_client(summary["tracking_uri"])
    version = client.get_model_version_by_alias("tuned", "candidate")
    assert summary["model_uri"] == f"models:/tuned/{version.version}"
    assert version.tags["sweep_run"] == summary["run_id"]
    parent = client.get_run(summary["run_id"])
    assert parent.info.status == "FINISHED"
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


@pytest.mark.nightly
@pytest.mark.integration
def test_a_sweep_that_has_spent_its_hours_ends_with_what_is_done_and_goes_on_with_more(
    tmp_path: Path,
) -> None:
    keys = {"trials": 2, "first": FIRST[1:]}
    start = command(tmp_path, tune_job(tmp_path, "budget={steps: 20, gpu_hours: 1.0e-4}", **keys))
    ended = subprocess.run(start, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "budget.gpu_hours 0.0001 is reached" in ended.stderr
    assert "no trial of 2 can win (0: stopped" in ended.stderr
    ledger = TrialStore(Storage(str(tmp_path)).subfolder("sweeps/search"))
    assert not any(entry.is_final for entry in ledger.records())
    start = command(tmp_path, tune_job(tmp_path, "budget={steps: 20, gpu_hours: 9}", **keys))
    done = subprocess.run(start, capture_output=True, text=True, check=True)
    assert {row["state"] for row in json.loads(done.stdout)["verdict"]["trials"]} == {"done"}


@pytest.mark.nightly
@pytest.mark.integration
def test_a_population_on_ray_killed_in_the_middle_keeps_its_size_and_its_lines(
    tmp_path: Path,
) -> None:
    job = tune_job(tmp_path, scheduler="pbt", trials=4, budget=2, first=FIRST)
    assert job.rungs == (1, 2)
    start, folder = command(tmp_path, job), Storage(job.storage).subfolder("sweeps", job.name)
    ledger = TrialStore(folder)
    strike(start, ledger, signal.SIGKILL, lambda now: len(now) > 4)  # a child is born
    done = subprocess.run(start, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    entries = ledger.records()
    assert len(current_population(entries)) == 4
    assert {entry.state for entry in current_population(entries)} <= {"done", "collapsed"}
    turns = read_generations(folder)
    assert len(turns) == 1
    assert len(entries) == 4 + len(turns[0])
    collapsed = {entry.number for entry in entries if entry.state == "collapsed"}
    assert not collapsed & {entry.parent for entry in entries}
    client = mlflow_client(summary["tracking_uri"])
    child = next(entry for entry in entries if entry.parent is not None and entry.run_id)
    on_run = client.get_run(child.run_id).data
    assert on_run.tags["sweep.inherited"] == child.inherited["sha256"]
    rates = client.get_metric_history(child.run_id, "schedule/optim.lr")
    assert [(row.step, row.value) for row in rates] == [
        (part["from"], part["values"]["optim.lr"]) for part in child.schedule
    ]


def test_local_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--local is not for tune jobs"):
        run(tune_job(tmp_path), local=True)
    assert not Storage(str(tmp_path)).exists("sweeps")
