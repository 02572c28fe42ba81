"""Episodes played side by side: everyone acts, every world goes on, until the goal or the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.environments.base import Environment, Floats
from orchestrator.evaluation.planning.policies import Observations, Policy
from orchestrator.evaluation.planning.tasks import Task


@dataclass(frozen=True)
class EpisodeResult:
    """What became of a task."""

    states: Floats
    """float32 [t + 1, S]: the start, and after every control step; ends where the goal does."""

    steps_to_goal: int | None
    """Control steps until the goal was reached; None: it was not."""


@dataclass(frozen=True)
class EpisodeBatch:
    """Tasks played together."""

    played: list[EpisodeResult]
    num_decisions: int
    """Times that somebody made up their mind, over all episodes."""

    planning_seconds: float
    """Of deciding alone, over all."""


def run_episodes(
    environments: Sequence[Environment], tasks: Sequence[Task], policy: Policy, budget: int
) -> EpisodeBatch:
    """Play each task in a world of its own, for at most `budget` control steps.

    A goal counts as reached at whichever control step its world says so.
    """
    paths: list[list[Floats]] = []
    for world, task in zip(environments, tasks, strict=True):
        world.set_state(task.start)
        paths.append([world.state])
    reached: list[int | None] = [
        0 if _goal_reached(w, t) else None for w, t in zip(environments, tasks, strict=True)
    ]
    policy.reset(tasks, _goal_observations(environments, tasks, policy.needs_images))
    seconds, step = 0.0, 0
    going = list(range(len(tasks)))
    while step < budget:
        still = [one for one in going if reached[one] is None]
        if len(still) < len(going):
            policy.keep_active(np.array([reached[one] is None for one in going]))
            going = still
        if not going:
            break
        sight = _observe([environments[one] for one in going], policy.needs_images)
        began = time.perf_counter()
        actions = policy.act(sight)
        seconds += time.perf_counter() - began
        actions = actions[:, : budget - step]
        for one, mine in zip(going, actions, strict=True):
            reached[one] = _execute(environments[one], tasks[one], mine, paths[one])
        step += actions.shape[1]
    played = [EpisodeResult(np.stack(path), end) for path, end in zip(paths, reached, strict=True)]
    return EpisodeBatch(played, policy.num_decisions, seconds)


def _execute(world: Environment, task: Task, actions: Floats, path: list[Floats]) -> int | None:
    """Do these actions; the control step at which the goal is reached, if it is."""
    for action in actions:
        world.step(action)
        path.append(world.state)
        if _goal_reached(world, task):
            return len(path) - 1
    return None


def _goal_reached(world: Environment, task: Task) -> bool:
    return world.is_success(world.state, task.goal)


def _observe(worlds: Sequence[Environment], looks: bool) -> Observations:
    states = np.stack([world.state for world in worlds])
    pictures = [world.render() for world in worlds] if looks else []
    return Observations(np.stack(pictures) if looks else np.zeros((0, 0, 0, 3), np.uint8), states)


def _goal_observations(
    worlds: Sequence[Environment], tasks: Sequence[Task], looks: bool
) -> Observations:
    states = np.stack([task.goal for task in tasks])
    shown = [w.render_state(t.goal) for w, t in zip(worlds, tasks, strict=True)] if looks else []
    return Observations(np.stack(shown) if looks else np.zeros((0, 0, 0, 3), np.uint8), states)
