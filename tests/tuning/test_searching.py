"""How many trials are begun at once, and when no more."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from orchestrator.progress import Silent
from orchestrator.storage import Storage
from orchestrator.tuning import searchers as searching
from orchestrator.tuning.sampling import draw
from orchestrator.tuning.searchers import LedgerSearch
from orchestrator.tuning.sweep_state import Here
from orchestrator.tuning.trial_store import Entry, Ledger
from tests.support.sweeps import tune_job


def searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str
) -> tuple[Here, LedgerSearch]:
    monkeypatch.setattr(searching, "prepare", lambda train, progress: None)
    job = tune_job(tmp_path, "trials=40", *overrides)
    ledger = Ledger(Storage(str(tmp_path / "sweep")))
    ledger.write(Entry(7, draw(job, 7, [])))
    here = Here(job, ledger, Silent())
    waiting = [7, *(n for n in range(40) if n != 7)]
    return here, LedgerSearch(here, {}, waiting)


_NAMES = itertools.count()


def begun(search: LedgerSearch) -> list[int]:
    """Everything it gives at once, each to a trial of another name."""
    found: list[int] = []
    while isinstance(one := search.suggest(f"tune-{next(_NAMES)}"), dict):
        found.append(one["number"])
    return found


def test_a_few_more_are_begun_than_find_room_and_more_as_nodes_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, search = searched(tmp_path, monkeypatch)
    here.room = 2
    first = begun(search)
    assert first == [7, 0, 1, 2], "what was begun before comes first"
    assert begun(search) == []
    here.room = 4
    assert begun(search) == [3, 4]
    here.room = 1
    for trial_id in list(search._running)[:3]:
        search.on_trial_complete(trial_id)
    assert begun(search) == [], "three still run, as many as now may"
    here.room = 20
    assert len(begun(search)) == 20 + 5 - 3
    assert [entry.point for entry in here.ledger.entries()][:3] == [
        draw(here.job, number, []) for number in range(3)
    ]


def test_with_tpe_one_is_drawn_ahead_of_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, search = searched(tmp_path, monkeypatch, "search=tpe")
    here.room = 8
    assert len(begun(search)) == 9


def test_nothing_is_begun_once_the_sweep_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, search = searched(tmp_path, monkeypatch)
    assert len(begun(search)) == 1 + 2
    here.end("budget.hours 1")
    assert search.suggest("next") == Searcher.FINISHED
    assert len(here.ledger.entries()) == 3


def test_a_copy_of_what_stays_here_knows_nothing(tmp_path: Path) -> None:
    import pickle

    here: Any = Here(tune_job(tmp_path), Ledger(Storage(str(tmp_path))), Silent())
    assert type(pickle.loads(pickle.dumps(here))) is object
