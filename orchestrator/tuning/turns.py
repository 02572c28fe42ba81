"""Population based training (Jaderberg et al. 2017): who is replaced after a rung, and by whom.

All members train to a rung; then each of the worst quarter (truncation selection), and whoever
collapsed or failed, gives way to a child of a member of the best quarter (exploit), whose values
are its parent's, moved or drawn anew (explore). What is decided is a function of the sweep's seed
and of what the ledger knows, so it does not depend on which trial came first; it is written down
whole before any of it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from orchestrator.errors import RequestError
from orchestrator.job import TuneJob, build_job
from orchestrator.job.space import Point, trial_data, walk
from orchestrator.job.tune import Dimension
from orchestrator.randomness import generator
from orchestrator.tuning.ledger import Entry

QUARTER = 0.25
FACTORS = 0.8, 1.2
"""By which a number moves."""

ANEW = 0.25
"""Share of values that are drawn anew instead."""

TRIES = 20

Child = dict[str, Any]
"""`number`, `parent`, `replaces`, `steps` and `point` of a member to come."""


def members(entries: Sequence[Entry]) -> list[Entry]:
    """The population of now: everyone in whose place nobody else stands."""
    replaced = {entry.replaces for entry in entries}
    return [entry for entry in entries if entry.number not in replaced]


def turn(job: TuneJob, entries: Sequence[Entry], rung: int) -> list[Child]:
    """The children that come after rung number `rung`, which every member has reached or ended
    before."""
    now = members(entries)
    scored = [one for one in now if one.state == "running" and one.value is not None]
    best = sorted(scored, key=lambda one: (-(one.value or 0.0), one.number))
    if not best:
        return []  # everyone collapsed: nobody can be a parent
    few = max(1, int(QUARTER * job.trials))
    parents, worst = best[:few], best[few:][-few:]
    lost = [one for one in now if one.state in ("collapsed", "failed")]
    first = max(entry.number for entry in entries) + 1
    children = []
    for number, loser in enumerate(sorted([*worst, *lost], key=lambda one: one.number), first):
        draws = generator(job.seed, number, "explore")
        parent = parents[int(draws.integers(len(parents)))]
        children.append(
            {
                "number": number,
                "parent": parent.number,
                "replaces": loser.number,
                "steps": job.rungs[rung],
                "point": _trainable(job, parent.point, draws),
            }
        )
    return children


def _trainable(job: TuneJob, point: Point, draws: np.random.Generator) -> Point:
    """A parent's values, explored. Values that each are good may not go together: then others are
    drawn, and where none do in a number of tries, the parent's stay."""
    for _ in range(TRIES):
        found = explored(job, point, draws)
        with suppress(RequestError):
            build_job(trial_data(job, 0, found))
            return found
    return point


def explored(job: TuneJob, point: Point, draws: np.random.Generator) -> Point:
    """A parent's values, each moved or drawn anew."""

    def value_of(key: str) -> Any:
        one = job.space[key]
        if key not in point or draws.random() < ANEW:
            return _anew(one, draws)
        return _moved(one, point[key], draws)

    return walk(job, value_of)


def _anew(one: Dimension, draws: np.random.Generator) -> Any:
    if one.choice is not None:
        return one.choice[int(draws.integers(len(one.choice)))]
    if one.whole is not None:
        return int(draws.integers(one.whole[0], one.whole[1] + 1))
    if one.loguniform is not None:
        return float(np.exp(draws.uniform(*np.log(one.loguniform))))
    assert one.uniform is not None
    return float(draws.uniform(*one.uniform))


def _moved(one: Dimension, value: Any, draws: np.random.Generator) -> Any:
    """A number times a factor, inside its span; of choices the one beside."""
    up = bool(draws.integers(2))
    if one.choice is not None:
        place = one.choice.index(value) + (1 if up else -1)
        return one.choice[min(max(place, 0), len(one.choice) - 1)]
    span = one.whole or one.loguniform or one.uniform
    assert span is not None
    moved = value * FACTORS[up]
    if one.whole is not None:
        moved = max(round(moved), value + 1) if up else min(round(moved), value - 1)
    return min(max(moved, span[0]), span[1])
