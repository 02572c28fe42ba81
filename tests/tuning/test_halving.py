"""Ray's successive halving, as a sweep hears and remembers it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from orchestrator.job import TuneJob
from orchestrator.storage import Storage
from orchestrator.tuning.ray_tune import StoredASHAScheduler
from orchestrator.tuning.trial_store import TrialRecord, TrialStore
from tests.support.sweeps import tune_job


def row(steps: int, objective: float) -> dict[str, object]:
    return {"steps": steps, "objective": objective, "loss": 0.1, "shut": []}


def heard(
    job: TuneJob,
    ledger: TrialStore,
    scheduler: StoredASHAScheduler,
    number: int,
    steps: int,
    value: float,
) -> str:
    trial = SimpleNamespace(trial_id=f"t{number}", config={"number": number})
    entry = ledger.read(number)
    if entry is None:
        entry = TrialRecord(number, {"optim.lr": 0.001})
        scheduler.on_trial_add(None, trial)
    ledger.write(replace(entry, rungs=[*entry.rungs, row(steps, value)]))
    return scheduler.on_trial_result(None, trial, {"steps": steps, "objective": value})


def test_who_is_behind_at_a_rung_ends_there_and_is_written_down(tmp_path: Path) -> None:
    job = tune_job(tmp_path, scheduler="asha", budget=100)
    assert job.rungs == (10, 30, 100)
    ledger = TrialStore(Storage(str(tmp_path)))
    scheduler = StoredASHAScheduler(job, ledger)
    actions = [
        heard(job, ledger, scheduler, number, 10, value)
        for number, value in enumerate([0.5, 0.4, 0.6, 0.1])
    ]
    assert actions == ["CONTINUE", "STOP", "CONTINUE", "STOP"]
    assert [entry.state for entry in ledger.records(4)] == [
        "running",
        "pruned",
        "running",
        "pruned",
    ]
    assert heard(job, ledger, scheduler, 2, 30, 0.7) == "CONTINUE"
    assert heard(job, ledger, scheduler, 0, 30, 0.55) == "STOP"
    assert heard(job, ledger, scheduler, 2, 100, 0.8) == "STOP"
    last = ledger.read(2)
    assert last is not None
    assert last.state == "running", "at its budget a trial is done, which it says itself"


def test_after_a_restart_it_decides_as_if_it_had_never_ended(tmp_path: Path) -> None:
    job = tune_job(tmp_path, scheduler="asha", budget=100)
    ledger = TrialStore(Storage(str(tmp_path)))
    for number, value in enumerate([0.5, 0.6, 0.9]):
        ledger.write(TrialRecord(number, {"optim.lr": 0.001}, "pruned", [row(10, value)]))
    again = StoredASHAScheduler(job, ledger)
    again.replay(ledger.records(3))
    assert [entry.state for entry in ledger.records(3)] == ["pruned"] * 3
    assert heard(job, ledger, again, 3, 10, 0.55) == "STOP"
    assert heard(job, ledger, again, 4, 10, 0.95) == "CONTINUE"
    fresh = StoredASHAScheduler(job, TrialStore(Storage(str(tmp_path / "fresh"))))
    elsewhere = TrialStore(Storage(str(tmp_path / "fresh")))
    assert heard(job, elsewhere, fresh, 3, 10, 0.55) == "CONTINUE", "nothing was known there"
