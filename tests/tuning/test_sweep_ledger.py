"""A sweep's memory: files, ranks, and another sweep under the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.storage import Storage
from orchestrator.tuning.trial_store import TrialRecord, TrialStore, check_same_sweep, rank_trials
from tests.support.sweeps import tune_job


def scored(number: int, state: str, value: float | None, steps: int = 20) -> TrialRecord:
    row = {"steps": steps, "objective": value, "loss": 0.1, "shut": [], "scores": {}, "gates": {}}
    return TrialRecord(number, {"optim.lr": 0.001}, state, [row])  # type: ignore[arg-type]


def test_a_trial_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = TrialStore(Storage(str(tmp_path)))
    assert ledger.read(0) is None
    entry = TrialRecord(3, {"optim.lr": 0.001, "objective": {"kind": "pixels"}})
    ledger.write(entry)
    assert ledger.read(3) == entry
    ledger.write(scored(3, "done", 0.4))
    assert [one.objective for one in ledger.records(5)] == [0.4]
    assert [file.path for file in Storage(str(tmp_path)).files()] == ["trials/0003.json"]


def test_a_collapsed_trial_is_ranked_last_whatever_it_scored() -> None:
    entries = [
        scored(0, "failed", 0.99),
        scored(1, "collapsed", None),
        scored(2, "pruned", 0.9, steps=2),
        scored(3, "done", 0.1),
        scored(4, "pruned", 0.5, steps=6),
        scored(5, "done", -0.3),
    ]
    assert [entry.number for entry in rank_trials(entries)] == [3, 5, 4, 2, 1, 0]


def test_the_same_name_takes_more_trials_but_no_other_space(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path / "sweeps/search"))
    check_same_sweep(tune_job(tmp_path), folder)
    check_same_sweep(tune_job(tmp_path, "trials=9", "train.scale.micro_batch=2"), folder)
    check_same_sweep(tune_job(tmp_path, "budget={steps: 20, hours: 3}"), folder)
    for override, said in (
        ("space={optim.lr: {uniform: [0.1, 0.2]}}", r"space\.objective\.ema"),
        ("budget=21", "budget: 20 -> 21"),
        ("train.model.patch=16", r"train\.model\.patch"),
        ("seed=1", "seed: 0 -> 1"),
    ):
        with pytest.raises(RequestError, match=said):
            check_same_sweep(tune_job(tmp_path, override), folder)
