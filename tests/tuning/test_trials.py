"""Trials themselves: paused and continued, never trained twice, and a collapse that cannot win."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.storage import Storage
from orchestrator.tracking.server import mlflow_client
from orchestrator.training.audit import audit_run
from orchestrator.training.run_record import read_record
from orchestrator.tuning.trial_store import rank_trials
from tests.support.sweeps import TRAIN_SECTION, make_trial, run_to_end, tune_job

HEALTHY = {"optim.lr": 1e-3, "objective.ema": 0.998}
COLLAPSING = {"optim.lr": 1e-2, "objective.ema": 0.0}
SPACE = {"optim.lr": {"choice": [1e-3, 1e-2]}, "objective.ema": {"choice": [0.998, 0.99, 0.0]}}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.integration
def test_a_collapsing_trial_has_the_lowest_loss_ends_at_a_tenth_and_never_wins(
    tmp_path: Path,
) -> None:
    job = tune_job(tmp_path, space=SPACE, budget=100)
    healthy = run_to_end(make_trial(job, 0, HEALTHY))
    collapsed = run_to_end(make_trial(job, 1, COLLAPSING))
    assert (healthy.state, healthy.steps) == ("done", 100)
    assert (collapsed.state, collapsed.steps, collapsed.objective) == ("collapsed", 10, None)
    assert collapsed.rungs[0]["loss"] < healthy.rungs[0]["loss"]
    assert [entry.number for entry in rank_trials([collapsed, healthy])] == [0, 1]

    # Without gates it goes on, to a loss that no trial of use comes near.
    gates = {"feature_std": 0.0, "rankme_share": 0.0, "token_cosine": 1.0}
    ungated = tune_job(tmp_path, name="ungated", space=SPACE, budget=100, gates=gates)
    whole = run_to_end(make_trial(ungated, 0, COLLAPSING))
    assert (whole.state, whole.steps) == ("done", 100)
    assert whole.rungs[-1]["loss"] < healthy.rungs[-1]["loss"]


@pytest.mark.nightly
def test_a_trial_killed_between_rungs_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "budget": 60,
        "train": TRAIN_SECTION | {"checkpoint": {"every": 10, "keep_last": 1}},
    }
    whole = run_to_end(make_trial(tune_job(tmp_path / "whole", **keys), 0, KILLED))

    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.support.sweeps", str(tmp_path / "struck"), json.dumps(keys)],
        stdout=subprocess.DEVNULL,
    )
    storage = Storage(str(tmp_path / "struck"))
    checkpoint = "runs/search.t0000/checkpoints/step-00000020/COMPLETE"
    deadline = time.monotonic() + 500
    while not storage.exists(checkpoint):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.kill()
    driver.wait()

    trial = make_trial(tune_job(tmp_path / "struck", **keys), 0, KILLED)
    before = trial.ledger.read(0)
    assert before is not None
    assert (before.state, before.steps) == ("running", 6), "killed after its first rung"
    struck = run_to_end(trial)
    assert [row["steps"] for row in struck.rungs] == [6, 60]
    assert struck.rungs[0] == before.rungs[0], "a rung that was scored is not scored again"
    assert struck.objective == pytest.approx(whole.objective, abs=1e-9)
    assert struck.rungs[-1]["loss"] == pytest.approx(whole.rungs[-1]["loss"], abs=1e-9)

    audit = audit_run(storage, "search.t0000")
    assert audit.good
    assert run_to_end(trial) == struck, "what has ended is never run again"
    record = read_record(storage.subfolder("runs", "search.t0000"))
    assert record is not None
    assert record.launches == 3, "to the first rung, on, and on again after the blow"
    run = mlflow_client(record.mlflow_uri).get_run(record.mlflow_run_id)
    assert run.data.tags["mlflow.parentRunId"] == trial.parent_run_id
    assert run.info.status == "FINISHED"


KILLED = {"optim.lr": 1e-3, "objective.ema": 0.99}
