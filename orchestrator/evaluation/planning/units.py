"""Work units: an arm on some of the tasks. They run side by side on Ray, or one by one here."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from orchestrator.data.store.index import DatasetIndex
from orchestrator.environments.base import Environment
from orchestrator.environments.registry import build_environment
from orchestrator.evaluation.planning.compatibility import action_bounds
from orchestrator.evaluation.planning.data_policies import (
    BehaviorCloningNet,
    BehaviorCloningPolicy,
    LinearStateReadout,
    NearestTrajectoryPolicy,
    fit_state_readout,
    train_behavior_cloning,
)
from orchestrator.evaluation.planning.episodes import EpisodeBatch, run_episodes
from orchestrator.evaluation.planning.policies import (
    OraclePolicy,
    PlannerPolicy,
    Policy,
    RandomPolicy,
)
from orchestrator.evaluation.planning.replay_buffer import ReplayBuffer, build_replay_buffer
from orchestrator.evaluation.planning.tasks import TaskSet
from orchestrator.job.config.planning import Planning
from orchestrator.planning.base import PlannableModel

EPISODES_PER_UNIT = 25
"""Episodes of a unit, which are planned for at once. Part of the protocol: noise is drawn for all
of them together."""

DATA_POLICIES = ("cloning", "nearest")


@dataclass(frozen=True)
class DataModels:
    """What was learned from the data, where somebody needs it."""

    replay_buffer: ReplayBuffer | None = None
    cloning_net: BehaviorCloningNet | None = None
    state_readout: LinearStateReadout | None = None


@dataclass(frozen=True)
class PlanningContext:
    """What all units need."""

    planning: Planning
    model: PlannableModel
    tasks: TaskSet
    image_size: int
    data_models: DataModels = DataModels()

    def build_environment(self) -> Environment:
        """A world of the job's."""
        return build_environment(self.planning.environment, self.image_size)

    @property
    def goal_model_steps(self) -> int:
        """Model steps from start to goal."""
        return max(1, self.planning.goal_offset // self.model.block)


@dataclass(frozen=True)
class EpisodeUnit:
    """Tasks [first, stop) by one arm."""

    policy: str
    first: int
    stop: int


def units_of(planning: Planning, count: int) -> list[EpisodeUnit]:
    """Every arm on its tasks, in runs of `EPISODES_PER_UNIT`; what takes longest comes first."""
    tasks = dict.fromkeys(("oracle", "model", *planning.baselines), count)
    if planning.oracle_episodes is not None:
        tasks["oracle"] = min(count, planning.oracle_episodes)
    if "oracle" not in planning.baselines:
        del tasks["oracle"]
    return [
        EpisodeUnit(arm, first, min(first + EPISODES_PER_UNIT, stop))
        for arm, stop in tasks.items()
        for first in range(0, stop, EPISODES_PER_UNIT)
    ]


@torch.inference_mode()
def measure_unit(shared: PlanningContext, unit: EpisodeUnit) -> EpisodeBatch:
    """Play a unit's tasks."""
    tasks = shared.tasks.all[unit.first : unit.stop]
    worlds = [shared.build_environment() for _ in tasks]
    return run_episodes(worlds, tasks, _build_policy(shared, unit), shared.planning.budget)


def _build_policy(shared: PlanningContext, unit: EpisodeUnit) -> Policy:
    planning, model, taught = shared.planning, shared.model, shared.data_models
    world = shared.build_environment()
    bounds = action_bounds(world, model.block)
    seed = planning.seed + unit.first
    if unit.policy == "model":
        return PlannerPolicy(
            model,
            planning,
            bounds,
            seed,
            shared.tasks.scaled_success_features,
            taught.state_readout,
        )
    if unit.policy == "oracle":
        return OraclePolicy(world, shared.tasks, planning, bounds, seed)
    if unit.policy == "random":
        return RandomPolicy(bounds, model.block, planning.seed)
    assert taught.replay_buffer is not None
    if unit.policy == "nearest":
        return NearestTrajectoryPolicy(model, taught.replay_buffer, shared.goal_model_steps)
    assert taught.cloning_net is not None
    return BehaviorCloningPolicy(model, taught.replay_buffer, taught.cloning_net, bounds)


def fit_data_models(shared: PlanningContext, indexes: list[DatasetIndex]) -> DataModels:
    """Look at the data once, and learn from it what the job needs.

    Raises:
        RequestError: the data has not what is needed.
    """
    planning, model = shared.planning, shared.model
    bounds = action_bounds(shared.build_environment(), model.block)
    with torch.no_grad():  # what is learned from it keeps gradients
        memory = build_replay_buffer(
            model, indexes, planning.data_episodes, shared.image_size, len(bounds.low)
        )
    cloner = reader = None
    if "cloning" in planning.baselines:
        cloner = train_behavior_cloning(memory, bounds, shared.goal_model_steps, planning.seed)
    if planning.needs_state_readout:
        reader = fit_state_readout(memory, shared.tasks)
    return DataModels(memory, cloner, reader)


def needs_data(planning: Planning) -> bool:
    """Whether an arm, or the cost, asks for the training data."""
    return planning.needs_state_readout or any(arm in DATA_POLICIES for arm in planning.baselines)
