"""How well a sweep's trials filled the cluster: what became of its worker slots, by the ledger.

Counted while some trial waited for room, and only then: a slot that nobody could use is no loss.
A trial waits from the start of a launch until it first has room, and from each time it asks for
room until it has it. While it is scored it does not wait; its slots are others' then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.tuning.trial_store import TrialRecord


@dataclass(frozen=True)
class Occupancy:
    """Slot-seconds while a trial waited."""

    training: float
    """From a group's first step until its workers had ended."""

    starting: float
    """From the moment a trial had room to its workers' first step."""

    unreserved: float
    """Room that no trial had."""

    @property
    def total(self) -> float:
        """All of them; 0 where no trial ever waited."""
        return self.training + self.starting + self.unreserved

    def shares(self) -> dict[str, float]:
        """Each as a share of all; empty where no trial ever waited."""
        parts = ("training", "starting", "unreserved")
        return {part: getattr(self, part) / self.total for part in parts} if self.total else {}


def occupancy(
    entries: Sequence[TrialRecord],
    waiting: Sequence[int],
    capacity_history: Sequence[tuple[float, int]],
    workers: int,
    started_at: float,
    ended_at: float,
) -> Occupancy:
    """What became of the slots of one launch.

    Args:
        entries: the ledger.
        waiting: numbers of the trials that waited at the launch's start.
        capacity_history: since when the cluster had room for how many trials at once.
        workers: slots of one trial.
    """
    legs = {
        entry.number: [leg for leg in entry.legs if leg["granted"] >= started_at]
        for entry in entries
    }
    waits = [(leg["asked"], leg["granted"]) for each in legs.values() for leg in each]
    for number in waiting:
        first = min((leg["granted"] for leg in legs.get(number, [])), default=ended_at)
        waits.append((started_at, first))
    starts, trains = [], []
    for each in legs.values():
        for leg in each:
            stepped = min(leg.get("first_step", leg["released"]), leg["released"])
            starts.append((leg["granted"], stepped))
            trains.append((stepped, leg["released"]))
    marks = {started_at, ended_at, *(at for at, _ in capacity_history)}
    marks |= {at for span in (*waits, *starts, *trains) for at in span}
    times = sorted(at for at in marks if started_at <= at <= ended_at)
    found = [0.0, 0.0, 0.0]
    for low, high in pairwise(times):
        if _count(waits, low, high):
            there = next(
                (room for at, room in reversed(capacity_history) if at <= low),
                capacity_history[0][1],
            )
            training, starting = _count(trains, low, high), _count(starts, low, high)
            free = max(0, there - training - starting)
            for i, trials in enumerate((training, starting, free)):
                found[i] += trials * workers * (high - low)
    return Occupancy(*found)


def _count(spans: Sequence[tuple[float, float]], low: float, high: float) -> int:
    """Spans that cover the time between two neighbouring marks."""
    return sum(begin <= low and high <= end for begin, end in spans)
