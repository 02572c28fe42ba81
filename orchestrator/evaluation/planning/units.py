"""Work units: an arm on some of the tasks. They run side by side on Ray, or one by one here."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from orchestrator.data.store.index import Index
from orchestrator.environments.base import World
from orchestrator.environments.registry import build_world
from orchestrator.evaluation.planning.compatibility import bounds_of
from orchestrator.evaluation.planning.data_policies import (
    Cloner,
    Cloning,
    Nearest,
    StateReader,
    clone,
    read_states,
)
from orchestrator.evaluation.planning.episodes import Round, play_together
from orchestrator.evaluation.planning.policies import Arm, Oracle, Planner, Random
from orchestrator.evaluation.planning.replay_buffer import Memory, recall
from orchestrator.evaluation.planning.tasks import Tasks
from orchestrator.job.config.planning import Planning
from orchestrator.planning.base import Dynamics

TOGETHER = 25
"""Episodes of a unit, which are planned for at once. Part of the protocol: noise is drawn for all
of them together."""

FROM_DATA = ("cloning", "nearest")


@dataclass(frozen=True)
class Taught:
    """What was learned from the data, where somebody needs it."""

    memory: Memory | None = None
    cloner: Cloner | None = None
    reader: StateReader | None = None


@dataclass(frozen=True)
class Shared:
    """What all units need."""

    planning: Planning
    model: Dynamics
    tasks: Tasks
    size: int
    taught: Taught = Taught()

    def world(self) -> World:
        """A world of the job's."""
        return build_world(self.planning.world, self.size)

    @property
    def steps(self) -> int:
        """Model steps from start to goal."""
        return max(1, self.planning.ahead // self.model.block)


@dataclass(frozen=True)
class Unit:
    """Tasks [first, stop) by one arm."""

    arm: str
    first: int
    stop: int


def units_of(planning: Planning, count: int) -> list[Unit]:
    """Every arm on its tasks, in runs of `TOGETHER`; what takes longest comes first."""
    tasks = dict.fromkeys(("oracle", "model", *planning.arms), count)
    if planning.oracle_episodes is not None:
        tasks["oracle"] = min(count, planning.oracle_episodes)
    if "oracle" not in planning.arms:
        del tasks["oracle"]
    return [
        Unit(arm, first, min(first + TOGETHER, stop))
        for arm, stop in tasks.items()
        for first in range(0, stop, TOGETHER)
    ]


@torch.inference_mode()
def measure(shared: Shared, unit: Unit) -> Round:
    """Play a unit's tasks."""
    tasks = shared.tasks.all[unit.first : unit.stop]
    worlds = [shared.world() for _ in tasks]
    return play_together(worlds, tasks, _arm(shared, unit), shared.planning.budget)


def _arm(shared: Shared, unit: Unit) -> Arm:
    planning, model, taught = shared.planning, shared.model, shared.taught
    world = shared.world()
    bounds = bounds_of(world, model.block)
    seed = planning.seed + unit.first
    if unit.arm == "model":
        return Planner(model, planning, bounds, seed, shared.tasks.measured, taught.reader)
    if unit.arm == "oracle":
        return Oracle(world, shared.tasks, planning, bounds, seed)
    if unit.arm == "random":
        return Random(bounds, model.block, planning.seed)
    assert taught.memory is not None
    if unit.arm == "nearest":
        return Nearest(model, taught.memory, shared.steps)
    assert taught.cloner is not None
    return Cloning(model, taught.memory, taught.cloner, bounds)


def learn(shared: Shared, indexes: list[Index]) -> Taught:
    """Look at the data once, and learn from it what the job needs.

    Raises:
        RequestError: the data has not what is needed.
    """
    planning, model = shared.planning, shared.model
    bounds = bounds_of(shared.world(), model.block)
    with torch.no_grad():  # what is learned from it keeps gradients
        memory = recall(model, indexes, planning.data_episodes, shared.size, len(bounds.low))
    cloner = reader = None
    if "cloning" in planning.arms:
        cloner = clone(memory, bounds, shared.steps, planning.seed)
    if planning.reads_states:
        reader = read_states(memory, shared.tasks)
    return Taught(memory, cloner, reader)


def needs_data(planning: Planning) -> bool:
    """Whether an arm, or the cost, asks for the training data."""
    return planning.reads_states or any(arm in FROM_DATA for arm in planning.arms)
