"""What was played as plain numbers, each with its interval, beside what needs no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from orchestrator.environments.base import Environment
from orchestrator.evaluation.planning.episodes import EpisodeBatch, EpisodeResult
from orchestrator.evaluation.planning.units import EPISODES_PER_UNIT, EpisodeUnit, PlanningContext
from orchestrator.job import EvaluateJob
from orchestrator.job.config.former_names import former_dump
from orchestrator.report.statistics import paired_difference, wilson_interval

PROTOCOL_VERSION = 1
"""Raised when the same model and the same job would give other numbers."""

KEYS_OUTSIDE_PROTOCOL = ("arms", "oracle_episodes", "tasks", "data", "data_episodes", "size")
"""Keys of `planning`, by their former names, that the model's own number does not depend on, or
that are hashed as what they lead to."""


@dataclass(frozen=True)
class PlanningRawResults:
    """Everything that was played."""

    context: PlanningContext
    environment: Environment
    units: Sequence[EpisodeUnit]
    batches: Sequence[EpisodeBatch]

    @property
    def policies(self) -> list[str]:
        """The model first, then as the job has them."""
        names = ["model", *self.context.planning.baselines]
        return [name for name in names if any(unit.policy == name for unit in self.units)]

    def batches_of(self, arm: str) -> list[EpisodeBatch]:
        """An arm's rounds, in the order of the tasks."""
        pairs = zip(self.units, self.batches, strict=True)
        return [one for unit, one in pairs if unit.policy == arm]

    def episodes(self, arm: str) -> list[EpisodeResult]:
        """What became of each task, in order."""
        return [one for each in self.batches_of(arm) for one in each.played]

    def success(self, arm: str) -> np.ndarray:
        """bool [tasks]."""
        return np.array([one.steps_to_goal is not None for one in self.episodes(arm)])

    def goal_distances(self, arm: str) -> np.ndarray:
        """Distance of the last state from the goal, in deviations, [tasks]."""
        tasks = self.context.tasks
        played = self.episodes(arm)
        pairs = zip(played, tasks.all[: len(played)], strict=True)
        return np.array([tasks.distance(one.states[-1], task.goal) for one, task in pairs])


def summarize(job: EvaluateJob, results: PlanningRawResults) -> dict[str, Any]:
    """Everything a report asks, JSON-serialisable.

    Keys: `world`, `protocol` (its hash), `shown` (what the hash is of), `overall` (the model's
    success), `arms` (of each: tasks, success, distance at the end, control steps to the goal,
    milliseconds a decision) and `gain` (how much more the model reaches than each other arm).
    """
    shown = protocol_facts(results)
    text = json.dumps(shown, sort_keys=True)
    level = job.confidence
    arms = {name: _arm(results, name, level) for name in results.policies}
    mine = results.success("model")
    others = {name: results.success(name) for name in results.policies if name != "model"}
    return {
        "kind": "planning",
        "world": results.context.planning.environment,
        "model": job.model,
        "protocol": hashlib.sha256(text.encode()).hexdigest()[:16],
        "confidence": level,
        "shown": shown,
        "overall": {"success": arms["model"]["success"]},
        "arms": arms,
        "gain": {
            name: asdict(paired_difference(mine[: len(theirs)], theirs, level))
            for name, theirs in others.items()
        },
    }


def protocol_facts(found: PlanningRawResults) -> dict[str, Any]:
    """All that decides the model's number, beside the model."""
    shared, world = found.context, found.environment
    planning, tasks = shared.planning, shared.tasks.all
    ends = np.stack([state for task in tasks for state in (task.start, task.goal)])
    goal = world.render_state(tasks[0].goal)
    facts: dict[str, Any] = {
        "planning": PROTOCOL_VERSION,
        **former_dump(planning, without=KEYS_OUTSIDE_PROTOCOL),
        "version": world.version,
        "rate": world.control_rate,
        "size": shared.image_size,
        "together": EPISODES_PER_UNIT,
        "count": len(tasks),
        "tasks": hashlib.sha256(ends.astype("<f4").tobytes()).hexdigest()[:16],
        "look": hashlib.sha256(goal.tobytes()).hexdigest()[:16],
    }
    if planning.needs_state_readout:  # read by a map that was fitted on data
        facts |= {"data": planning.data, "data_episodes": planning.data_episodes}
        told = world.success_features(ends)
        if told.shape != ends.shape or (told != ends).any():  # a world that compares in its own way
            facts["judged"] = hashlib.sha256(told.astype("<f4").tobytes()).hexdigest()[:16]
    return facts


def scores_json(summary: dict[str, Any], results: PlanningRawResults) -> dict[str, Any]:
    """Task by task, so that two models can be compared on the same tasks."""
    return {
        "protocol": summary["protocol"],
        "confidence": summary["confidence"],
        "reached": {
            arm: [one.steps_to_goal for one in results.episodes(arm)] for arm in results.policies
        },
        "distance": {arm: results.goal_distances(arm).tolist() for arm in results.policies},
        "start": [task.start.tolist() for task in results.context.tasks.all],
        "goal": [task.goal.tolist() for task in results.context.tasks.all],
    }


def _arm(found: PlanningRawResults, name: str, level: float) -> dict[str, Any]:
    played, rounds = found.episodes(name), found.batches_of(name)
    steps = [one.steps_to_goal for one in played if one.steps_to_goal is not None]
    decisions = sum(one.num_decisions for one in rounds)
    return {
        "tasks": len(played),
        "success": asdict(wilson_interval(len(steps), len(played), level)),
        "distance": float(found.goal_distances(name).mean()),
        "steps": float(np.mean(steps)) if steps else None,
        "decisions": decisions,
        "ms": 1000 * sum(one.planning_seconds for one in rounds) / max(1, decisions),
    }
