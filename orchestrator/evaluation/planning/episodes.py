"""Episodes played side by side: everyone acts, every world goes on, until the goal or the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.environments.base import Floats, World
from orchestrator.evaluation.planning.policies import Arm, Sight
from orchestrator.evaluation.planning.tasks import Task


@dataclass(frozen=True)
class Played:
    """What became of a task."""

    states: Floats
    """float32 [t + 1, S]: the start, and after every control step; ends where the goal does."""

    reached: int | None
    """Control steps until the goal was reached; None: it was not."""


@dataclass(frozen=True)
class Round:
    """Tasks played together."""

    played: list[Played]
    decisions: int
    """Times that somebody made up their mind, over all episodes."""

    seconds: float
    """Of deciding alone, over all."""


def play_together(worlds: Sequence[World], tasks: Sequence[Task], arm: Arm, budget: int) -> Round:
    """Play each task in a world of its own, for at most `budget` control steps.

    A goal counts as reached at whichever control step its world says so.
    """
    paths: list[list[Floats]] = []
    for world, task in zip(worlds, tasks, strict=True):
        world.restore(task.start)
        paths.append([world.state])
    reached: list[int | None] = [
        0 if _there(w, t) else None for w, t in zip(worlds, tasks, strict=True)
    ]
    arm.begin(tasks, _goals(worlds, tasks, arm.looks))
    seconds, step = 0.0, 0
    going = list(range(len(tasks)))
    while step < budget:
        still = [one for one in going if reached[one] is None]
        if len(still) < len(going):
            arm.keep(np.array([reached[one] is None for one in going]))
            going = still
        if not going:
            break
        sight = _sight([worlds[one] for one in going], arm.looks)
        began = time.perf_counter()
        actions = arm.act(sight)
        seconds += time.perf_counter() - began
        actions = actions[:, : budget - step]
        for one, mine in zip(going, actions, strict=True):
            reached[one] = _go(worlds[one], tasks[one], mine, paths[one])
        step += actions.shape[1]
    played = [Played(np.stack(path), end) for path, end in zip(paths, reached, strict=True)]
    return Round(played, arm.decisions, seconds)


def _go(world: World, task: Task, actions: Floats, path: list[Floats]) -> int | None:
    """Do these actions; the control step at which the goal is reached, if it is."""
    for action in actions:
        world.step(action)
        path.append(world.state)
        if _there(world, task):
            return len(path) - 1
    return None


def _there(world: World, task: Task) -> bool:
    return world.reached(world.state, task.goal)


def _sight(worlds: Sequence[World], looks: bool) -> Sight:
    states = np.stack([world.state for world in worlds])
    pictures = [world.render() for world in worlds] if looks else []
    return Sight(np.stack(pictures) if looks else np.zeros((0, 0, 0, 3), np.uint8), states)


def _goals(worlds: Sequence[World], tasks: Sequence[Task], looks: bool) -> Sight:
    states = np.stack([task.goal for task in tasks])
    shown = [w.picture(t.goal) for w, t in zip(worlds, tasks, strict=True)] if looks else []
    return Sight(np.stack(shown) if looks else np.zeros((0, 0, 0, 3), np.uint8), states)
