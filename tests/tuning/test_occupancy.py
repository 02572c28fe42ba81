"""What became of a sweep's slots, by the ledger, against a count second by second."""

from __future__ import annotations

import random

import pytest

from orchestrator.job.config.tune import Budget
from orchestrator.tuning.launches import budget_exhausted
from orchestrator.tuning.occupancy import occupancy
from orchestrator.tuning.trial_store import TrialRecord


def leg(asked: float, granted: float, first_step: float, released: float) -> dict[str, float]:
    times = {"asked": asked, "granted": granted, "released": released}
    return times | ({"first_step": first_step} if first_step else {})


def test_slots_count_only_while_somebody_waits() -> None:
    # Room for two trials of two workers; three trials. The third waits until 60.
    entries = [
        TrialRecord(0, {}, "done", legs=[leg(10, 10, 30, 60)]),
        TrialRecord(1, {}, "done", legs=[leg(20, 20, 50, 100)]),
        TrialRecord(2, {}, "done", legs=[leg(30, 62, 70, 120)]),
    ]
    found = occupancy(entries, [0, 1, 2], [(0, 2)], 2, started_at=0, ended_at=130)
    # Until 62: trial 0 has [10, 60], trial 1 [20, 62]; each starts before it trains.
    assert found.starting == 2 * (20 + 30)
    assert found.training == 2 * (30 + 12)
    assert found.unreserved == 2 * (10 + 20 + 2)
    assert found.total == 62 * 4
    assert sum(found.shares().values()) == pytest.approx(1)


def test_alone_nobody_waits_and_there_is_nothing_to_say() -> None:
    entries = [TrialRecord(0, {}, "done", legs=[leg(0, 0, 5, 50)])]
    assert occupancy(entries, [], [(0, 2)], 2, 0, 50).shares() == {}


def test_by_the_second_it_is_the_same() -> None:
    draws = random.Random(0)
    for _ in range(20):
        entries = []
        for number in range(6):
            at, legs = float(draws.randrange(40)), []
            for _ in range(2):
                asked = at
                granted = asked + draws.randrange(20)
                stepped = granted + draws.randrange(1, 10)
                at = stepped + draws.randrange(1, 30)
                legs.append(leg(asked, granted, stepped, at))
                at += draws.randrange(10)
            entries.append(TrialRecord(number, {}, "done", legs=legs))
        rooms = [(0.0, 2), (60.0, 3), (120.0, 1)]
        found = occupancy(entries, range(6), rooms, 2, 0, 200)
        counts = dict.fromkeys(("training", "starting", "unreserved"), 0.0)
        for second in range(200):
            now = second + 0.5
            waiting = any(
                now < one.legs[0]["granted"]
                or any(leg["asked"] < now < leg["granted"] for leg in one.legs)
                for one in entries
            )
            if not waiting:
                continue
            each = [leg for one in entries for leg in one.legs]
            training = sum(leg["first_step"] < now < leg["released"] for leg in each)
            starting = sum(leg["granted"] < now < leg["first_step"] for leg in each)
            room = next(room for at, room in reversed(rooms) if at < now)
            counts["training"] += 2 * training
            counts["starting"] += 2 * starting
            counts["unreserved"] += 2 * max(0, room - training - starting)
        assert vars(found) == counts


def test_limits_count_all_launches() -> None:
    launches = [
        {"began": 0.0, "ended": 1800.0, "worker_s": 7200.0},
        {"began": 9000.0, "ended": 10800.0, "worker_s": 3600.0},
    ]
    assert budget_exhausted(launches, Budget()) == ""
    assert budget_exhausted(launches, Budget(hours=1.1, gpu_hours=3.1)) == ""
    assert budget_exhausted(launches, Budget(hours=1.0)) == "budget.hours 1"
    assert budget_exhausted(launches, Budget(gpu_hours=2.5)) == "budget.gpu_hours 2.5"
    assert budget_exhausted([], Budget(hours=0.01)) == ""
