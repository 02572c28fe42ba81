"""What is to be done: from a start to a goal, both from episodes that nobody learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.environments.base import Collector, Environment, Floats
from orchestrator.environments.registry import build_collector
from orchestrator.errors import RequestError
from orchestrator.job.config.planning import Planning
from orchestrator.randomness import generator

EPISODE_LENGTH_FACTOR = 4
"""Length of an episode that tasks are drawn from, in times from start to goal."""

MAX_ATTEMPTS = 100
"""Episodes for each task, before it is said that there are none."""


@dataclass(frozen=True)
class Task:
    """From a state to a state."""

    index: int
    start: Floats
    goal: Floats


@dataclass(frozen=True)
class TaskSet:
    """All tasks of an evaluation, and what a difference of states means in this world."""

    all: list[Task]
    success_features: Callable[[Floats], Floats]
    """The world's own: states [..., S] -> [..., M], what a success depends on."""

    scale: Floats
    """Deviation of each of those numbers over the episodes, 1 where it never changes: [M]."""

    def distance(self, state: Floats, goal: Floats) -> float:
        """Distance of states, root mean square in `scale`."""
        return float(
            np.sqrt(
                np.square(
                    self.scaled_success_features(state) - self.scaled_success_features(goal)
                ).mean()
            )
        )

    def scaled_success_features(self, states: Floats) -> Floats:
        """What is compared, in units of `scale`: float32 [..., S] -> [..., M]."""
        measured: Floats = (self.success_features(states) / self.scale).astype(np.float32)
        return measured


def draw_tasks(planning: Planning, environment: Environment) -> TaskSet:
    """The tasks of a job: its own, or one from each of the collector's episodes.

    Task n does not depend on how many there are.

    Raises:
        RequestError: a start or goal lies outside the world, a goal is reached before anything
            is done, or the collector's episodes have nothing worthwhile.
    """
    if planning.tasks:
        return _tasks_from_job(planning, environment)
    drawn: list[Task] = []
    seen: list[Floats] = []
    while len(drawn) < planning.episodes:
        states, at = _episode_with_task(planning, environment, len(drawn))
        drawn.append(Task(len(drawn), states[at], states[at + planning.goal_offset]))
        seen.append(states)
    return TaskSet(
        drawn,
        environment.success_features,
        _scale(environment.success_features(np.concatenate(seen))),
    )


def _tasks_from_job(planning: Planning, world: Environment) -> TaskSet:
    """The job's own tasks."""
    tasks = []
    for n, pair in enumerate(planning.tasks):
        task = Task(
            n,
            _validated_state(world, pair.start, n, "start"),
            _validated_state(world, pair.goal, n, "goal"),
        )
        if world.is_success(task.start, task.goal):
            raise RequestError(
                "the goal is reached at the start",
                where=f"planning.tasks.{n}",
                hint="set them further apart",
            )
        tasks.append(task)
    ends = np.stack([state for one in tasks for state in (one.start, one.goal)])
    return TaskSet(tasks, world.success_features, _scale(world.success_features(ends)))


def _episode_with_task(planning: Planning, world: Environment, number: int) -> tuple[Floats, int]:
    """States of an episode, and where in it a worthwhile task begins."""
    for attempt in range(MAX_ATTEMPTS):
        rng = generator(planning.seed, number, "tasks", attempt)
        states = collect_states(
            world,
            build_collector(planning.environment),
            EPISODE_LENGTH_FACTOR * planning.goal_offset + 1,
            rng,
        )
        begins = [
            at
            for at in range(len(states) - planning.goal_offset)
            if _is_worthwhile(world, states[at], states[at + planning.goal_offset])
        ]
        if begins:
            return states, int(rng.choice(begins))
    raise RequestError(
        f"none of {MAX_ATTEMPTS} episodes of {planning.environment} has a worthwhile goal"
        f" {planning.goal_offset} control steps ahead",
        where="planning.goal_offset",
        hint="set another planning.goal_offset, or name planning.tasks",
    )


def _is_worthwhile(world: Environment, start: Floats, goal: Floats) -> bool:
    """Whether there is something to do, and doing it says anything."""
    return not world.is_success(start, goal) and world.is_nontrivial(start, goal)


def collect_states(
    environment: Environment, collector: Collector, steps: int, rng: np.random.Generator
) -> Floats:
    """The states of a collector's episode, [steps, S], without its pictures."""
    environment.set_state(environment.sample_state(rng))
    states = [environment.state]
    for _ in range(steps - 1):
        environment.step(np.asarray(collector(environment, rng), np.float32))
        states.append(environment.state)
    return np.stack(states)


def _validated_state(
    world: Environment, given: tuple[float, ...], number: int, what: str
) -> Floats:
    try:
        world.set_state(np.asarray(given, np.float32))
    except RequestError as error:
        raise RequestError(
            error.what, where=f"planning.tasks.{number}.{what}", hint=error.hint
        ) from None
    return world.state


def _scale(states: Floats) -> Floats:
    spread = states.std(0)
    return np.where(spread > 1e-6, spread, 1.0).astype(np.float32)
