"""What was played as plain numbers, each with its interval, beside what needs no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from orchestrator.environments.base import World
from orchestrator.evaluation.planning.episodes import Played, Round
from orchestrator.evaluation.planning.units import TOGETHER, Shared, Unit
from orchestrator.job import EvaluateJob
from orchestrator.report.intervals import paired, wilson

PROTOCOL = 1
"""Raised when the same model and the same job would give other numbers."""

NOT_SHOWN = ("arms", "oracle_episodes", "tasks", "data", "data_episodes", "size")
"""Keys of `planning` that the model's own number does not depend on, or that are hashed as what
they lead to."""


@dataclass(frozen=True)
class Found:
    """Everything that was played."""

    shared: Shared
    world: World
    units: Sequence[Unit]
    rounds: Sequence[Round]

    @property
    def arms(self) -> list[str]:
        """The model first, then as the job has them."""
        names = ["model", *self.shared.planning.arms]
        return [name for name in names if any(unit.arm == name for unit in self.units)]

    def of(self, arm: str) -> list[Round]:
        """An arm's rounds, in the order of the tasks."""
        pairs = zip(self.units, self.rounds, strict=True)
        return [one for unit, one in pairs if unit.arm == arm]

    def played(self, arm: str) -> list[Played]:
        """What became of each task, in order."""
        return [one for each in self.of(arm) for one in each.played]

    def reached(self, arm: str) -> np.ndarray:
        """bool [tasks]."""
        return np.array([one.reached is not None for one in self.played(arm)])

    def apart(self, arm: str) -> np.ndarray:
        """Distance of the last state from the goal, in deviations, [tasks]."""
        tasks = self.shared.tasks
        played = self.played(arm)
        pairs = zip(played, tasks.all[: len(played)], strict=True)
        return np.array([tasks.apart(one.states[-1], task.goal) for one, task in pairs])


def verdict(job: EvaluateJob, found: Found) -> dict[str, Any]:
    """Everything a report asks, JSON-serialisable.

    Keys: `world`, `protocol` (its hash), `shown` (what the hash is of), `overall` (the model's
    success), `arms` (of each: tasks, success, distance at the end, control steps to the goal,
    milliseconds a decision) and `gain` (how much more the model reaches than each other arm).
    """
    shown = protocol_facts(found)
    text = json.dumps(shown, sort_keys=True)
    level = job.confidence
    arms = {name: _arm(found, name, level) for name in found.arms}
    mine = found.reached("model")
    others = {name: found.reached(name) for name in found.arms if name != "model"}
    return {
        "kind": "planning",
        "world": found.shared.planning.world,
        "model": job.model,
        "protocol": hashlib.sha256(text.encode()).hexdigest()[:16],
        "confidence": level,
        "shown": shown,
        "overall": {"success": arms["model"]["success"]},
        "arms": arms,
        "gain": {
            name: asdict(paired(mine[: len(theirs)], theirs, level))
            for name, theirs in others.items()
        },
    }


def protocol_facts(found: Found) -> dict[str, Any]:
    """All that decides the model's number, beside the model."""
    shared, world = found.shared, found.world
    planning, tasks = shared.planning, shared.tasks.all
    ends = np.stack([state for task in tasks for state in (task.start, task.goal)])
    goal = world.picture(tasks[0].goal)
    facts: dict[str, Any] = {
        "planning": PROTOCOL,
        **planning.model_dump(mode="json", exclude=set(NOT_SHOWN)),
        "version": world.version,
        "rate": world.rate,
        "size": shared.size,
        "together": TOGETHER,
        "count": len(tasks),
        "tasks": hashlib.sha256(ends.astype("<f4").tobytes()).hexdigest()[:16],
        "look": hashlib.sha256(goal.tobytes()).hexdigest()[:16],
    }
    if planning.reads_states:  # read by a map that was fitted on data
        facts |= {"data": planning.data, "data_episodes": planning.data_episodes}
        told = world.judged(ends)
        if told.shape != ends.shape or (told != ends).any():  # a world that compares in its own way
            facts["judged"] = hashlib.sha256(told.astype("<f4").tobytes()).hexdigest()[:16]
    return facts


def scores_json(told: dict[str, Any], found: Found) -> dict[str, Any]:
    """Task by task, so that two models can be compared on the same tasks."""
    return {
        "protocol": told["protocol"],
        "confidence": told["confidence"],
        "reached": {arm: [one.reached for one in found.played(arm)] for arm in found.arms},
        "distance": {arm: found.apart(arm).tolist() for arm in found.arms},
        "start": [task.start.tolist() for task in found.shared.tasks.all],
        "goal": [task.goal.tolist() for task in found.shared.tasks.all],
    }


def _arm(found: Found, name: str, level: float) -> dict[str, Any]:
    played, rounds = found.played(name), found.of(name)
    steps = [one.reached for one in played if one.reached is not None]
    decisions = sum(one.decisions for one in rounds)
    return {
        "tasks": len(played),
        "success": asdict(wilson(len(steps), len(played), level)),
        "distance": float(found.apart(name).mean()),
        "steps": float(np.mean(steps)) if steps else None,
        "decisions": decisions,
        "ms": 1000 * sum(one.seconds for one in rounds) / max(1, decisions),
    }
