"""How many trials are begun at once, and when no more."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.tuning import searchers as searching
from orchestrator.tuning.sampling import sample_point
from orchestrator.tuning.searchers import StoreSearcher
from orchestrator.tuning.sweep_state import SweepState
from orchestrator.tuning.trial_store import TrialRecord, TrialStore
from tests.support.sweeps import tune_job


def searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str
) -> tuple[SweepState, StoreSearcher]:
    monkeypatch.setattr(searching, "prepare_data", lambda train, progress: None)
    job = tune_job(tmp_path, "trials=40", *overrides)
    ledger = TrialStore(Storage(str(tmp_path / "sweep")))
    ledger.write(TrialRecord(7, sample_point(job, 7, [])))
    here = SweepState(job, ledger, SilentProgress())
    waiting = [7, *(n for n in range(40) if n != 7)]
    return here, StoreSearcher(here, {}, waiting)


_NAMES = itertools.count()


def begun(search: StoreSearcher) -> list[int]:
    """Everything it gives at once, each to a trial of another name."""
    found: list[int] = []
    while isinstance(one := search.suggest(f"tune-{next(_NAMES)}"), dict):
        found.append(one["number"])
    return found


def test_a_few_more_are_begun_than_find_room_and_more_as_nodes_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, search = searched(tmp_path, monkeypatch)
    here.concurrent_trials = 2
    first = begun(search)
    assert first == [7, 0, 1, 2], "what was begun before comes first"
    assert begun(search) == []
    here.concurrent_trials = 4
    assert begun(search) == [3, 4]
    here.concurrent_trials = 1
    for trial_id in list(search._running)[:3]:
        search.on_trial_complete(trial_id)
    assert begun(search) == [], "three still run, as many as now may"
    here.concurrent_trials = 20
    assert len(begun(search)) == 20 + 5 - 3
    assert [entry.point for entry in here.ledger.records()][:3] == [
        sample_point(here.job, number, []) for number in range(3)
    ]


def test_with_tpe_one_is_drawn_ahead_of_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, search = searched(tmp_path, monkeypatch, "search=tpe")
    here.concurrent_trials = 8
    assert len(begun(search)) == 9


def test_nothing_is_begun_once_the_sweep_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, search = searched(tmp_path, monkeypatch)
    assert len(begun(search)) == 1 + 2
    here.stop("budget.hours 1")
    assert search.suggest("next") == Searcher.FINISHED
    assert len(here.ledger.records()) == 3


def test_a_copy_of_what_stays_here_knows_nothing(tmp_path: Path) -> None:
    import pickle

    here: Any = SweepState(tune_job(tmp_path), TrialStore(Storage(str(tmp_path))), SilentProgress())
    assert type(pickle.loads(pickle.dumps(here))) is object
