"""The sweep's memory: one JSON file per trial, written whole or not at all.

A trial's file has one writer at a time: the driver until it starts, then its own process; the
driver again to note that the scheduler ended it, when that process waits for its word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.errors import RequestError
from orchestrator.job import TuneJob, differences, identity, present_names
from orchestrator.job.loading.search_space import Point
from orchestrator.storage import Storage, with_retries

TrialStatus = Literal["running", "done", "pruned", "collapsed", "failed"]
SWEEP_FILE, TRIALS = "sweep.json", "trials"


@dataclass(frozen=True)
class TrialRecord:
    """What is known of a trial."""

    number: int
    point: Point
    state: TrialStatus = "running"
    """Everything but `running` is final."""

    rungs: list[dict[str, Any]] = field(default_factory=list)
    """By rung: steps, objective (None where it collapsed), scores, gates, loss."""

    run_id: str = ""
    error: str = ""
    legs: list[dict[str, float]] = field(default_factory=list)
    """By training that has ended, when it `asked` for room, had it (`granted`), did its
    `first_step` and `released` it: seconds since 1970. A killed driver leaves none."""

    parent: int | None = None
    """Of a child (`scheduler: pbt`): whose weights it went on from. Its first rungs are its
    parent's."""

    replaces: int | None = None
    """Of a child: the member in whose place it stands."""

    inherited: dict[str, Any] = field(default_factory=dict)
    """Of a child: its parent's `checkpoint`, its `steps`, and the `sha256` of its weights."""

    schedule: list[dict[str, Any]] = field(default_factory=list)
    """Of a child: the values that its weights were trained with, by the step `from` which."""

    @property
    def objective(self) -> float | None:
        """The objective of the last rung; None where it collapsed, failed or was never scored."""
        if self.state in ("collapsed", "failed") or not self.rungs:
            return None
        value: float | None = self.rungs[-1]["objective"]
        return value

    @property
    def steps(self) -> int:
        """Steps after which it was scored last."""
        return int(self.rungs[-1]["steps"]) if self.rungs else 0

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be trained."""
        return self.state != "running"


class TrialStore:
    """The files of a sweep's trials."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder

    def read(self, number: int) -> TrialRecord | None:
        """What is known of a trial; None where it was never begun."""
        path = self._path(number)
        if not with_retries(self._folder.exists, path):
            return None
        return TrialRecord(**with_retries(self._folder.read_json, path))

    def write(self, entry: TrialRecord) -> None:
        """Put a trial's file in its place."""
        with_retries(self._folder.write_json, self._path(entry.number), asdict(entry))

    def records(self, trials: int | None = None) -> list[TrialRecord]:
        """All trials that were begun, by number; those below `trials` only where it is given."""
        files = with_retries(lambda: list(self._folder.files(TRIALS)))
        names = [re.fullmatch(rf"{TRIALS}/(\d+)\.json", file.path) for file in files]
        numbers = sorted(int(name[1]) for name in names if name)
        found = [self.read(n) for n in numbers if trials is None or n < trials]
        return [entry for entry in found if entry is not None]

    def _path(self, number: int) -> str:
        return f"{TRIALS}/{number:04d}.json"


def rank_trials(entries: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Best first: whole trials, then those that were ended early, the longer trained first; last
    what collapsed or failed."""
    order = {"done": 0, "pruned": 1, "running": 1, "collapsed": 2, "failed": 3}

    def place(entry: TrialRecord) -> tuple[float, ...]:
        value = entry.objective
        return (
            order[entry.state],
            0 if entry.state == "done" else -entry.steps,
            float("inf") if value is None else -value,
            entry.number,
        )

    return sorted(entries, key=place)


def check_same_sweep(job: TuneJob, folder: Storage) -> None:
    """The first launch writes down what the sweep is; later ones may only raise `trials`
    and the budget's limits.

    Raises:
        RequestError: a sweep of this name has another space, train job, budget or seed.
    """
    mine = _identity(job)
    if not folder.exists(SWEEP_FILE):
        folder.write_json(SWEEP_FILE, mine)
        return
    changed = differences(folder.read_json(SWEEP_FILE), mine, present_names(job))
    if changed:
        raise RequestError(
            f"sweep '{job.name}' exists with other values: {'; '.join(changed[:3])}",
            where=folder.uri(SWEEP_FILE),
            hint="give it another name, or undo the change",
        )


def _identity(job: TuneJob) -> dict[str, Any]:
    ours = {
        key: value
        for key, value in identity(job).items()
        if key != "trials" and not key.startswith(("train.", "budget"))
    }
    ours["budget"] = job.steps  # the limits of the whole sweep may be raised
    theirs = {
        f"train.{key}": value
        for key, value in identity(job.train).items()
        if key not in ("name", "optim.steps")
    }
    return ours | theirs
