"""Who acts: the model's planner, the same planner with the world itself, and chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.environments.base import Environment, Floats
from orchestrator.evaluation.planning.tasks import Task, TaskSet
from orchestrator.job.config.planning import Planning
from orchestrator.planning.base import ActionBounds, PlannableModel
from orchestrator.planning.build import build_solver
from orchestrator.planning.goal_cost import GoalDistance
from orchestrator.planning.mpc import MPCConfig, MPCController
from orchestrator.randomness import generator

Images = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
StateTransform = Callable[[Floats], Floats]
StateReadout = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Observations:
    """What is before B actors."""

    images: Images
    """uint8 [B, size, size, 3]."""

    states: Floats
    """float32 [B, S]."""


class Policy(Protocol):
    """Acts in B episodes at once."""

    needs_images: bool
    """Whether it needs pictures."""

    @property
    def num_decisions(self) -> int:
        """Times that it made up its mind, over all episodes."""

    def reset(self, tasks: Sequence[Task], goals: Observations) -> None:
        """New episodes."""

    def act(self, observations: Observations) -> Floats:
        """What to do in the next control steps, [B, n, A]."""

    def keep_active(self, going: BoolArray) -> None:
        """The others have ended."""


class RandomPolicy:
    """Draws from the whole action space: another action in every control step."""

    needs_images = False

    def __init__(self, bounds: ActionBounds, block: int, seed: int) -> None:
        self._low, self._high = (side.numpy() for side in (bounds.low, bounds.high))
        self._block, self._seed, self.num_decisions = block, seed, 0

    def reset(self, tasks: Sequence[Task], goals: Observations) -> None:
        self._draws = [generator(self._seed, task.index, "arms") for task in tasks]

    def act(self, observations: Observations) -> Floats:
        drawn = [draw.uniform(self._low, self._high) for draw in self._draws]
        self.num_decisions += len(drawn)
        return np.stack(drawn).astype(np.float32).reshape(len(drawn), self._block, -1)

    def keep_active(self, going: BoolArray) -> None:
        self._draws = [draw for draw, goes in zip(self._draws, going, strict=True) if goes]


class PlannerPolicy:
    """Plans with a model that sees pictures, towards a picture or towards a state.

    Args:
        state_transform: what of states is compared, as `TaskSet` has it.
        state_readout: reads that off features, [..., area, dim] -> [..., 1, M]; where it is given,
            states are compared.
    """

    needs_images = True

    def __init__(
        self,
        model: PlannableModel,
        planning: Planning,
        bounds: ActionBounds,
        seed: int,
        state_transform: StateTransform,
        state_readout: StateReadout | None = None,
    ) -> None:
        self._model, self._measured, self._read = model, state_transform, state_readout
        self._shown = planning.goal == "image"
        self._control = _build_controller(model, planning, bounds, seed, state_readout)

    def reset(self, tasks: Sequence[Task], goals: Observations) -> None:
        if self._read is not None and not self._shown:
            goal = torch.from_numpy(self._measured(goals.states))[:, None]
        else:
            seen = encode_images(self._model, goals.images)
            goal = seen if self._read is None else self._read(seen)
        self._control.reset(goal)

    def act(self, observations: Observations) -> Floats:
        z = encode_images(self._model, observations.images)
        return _to_action_blocks(
            self._control.act(z, torch.from_numpy(observations.states).to(z.device)), self._model
        )

    def keep_active(self, going: BoolArray) -> None:
        self._control.keep_episodes(torch.from_numpy(going))

    @property
    def num_decisions(self) -> int:
        return self._control.num_plans


class OraclePolicy:
    """Plans with the world itself; now and goal are states."""

    needs_images = False

    def __init__(
        self,
        world: Environment,
        tasks: TaskSet,
        planning: Planning,
        bounds: ActionBounds,
        seed: int,
    ) -> None:
        self._model = EnvironmentDynamics(world, bounds.block)
        self._measured = tasks.scaled_success_features
        # Its features are states of a few numbers: squared, as the distance of states is told.
        squared = planning.model_copy(update={"distance": "l2"})
        self._control = _build_controller(self._model, squared, bounds, seed, self._scaled_features)

    def _scaled_features(self, features: Tensor) -> Tensor:
        return torch.from_numpy(self._measured(features.numpy()))

    def reset(self, tasks: Sequence[Task], goals: Observations) -> None:
        self._control.reset(self._scaled_features(self._model.features(goals.states)))

    def act(self, observations: Observations) -> Floats:
        return _to_action_blocks(
            self._control.act(self._model.features(observations.states)), self._model
        )

    def keep_active(self, going: BoolArray) -> None:
        self._control.keep_episodes(torch.from_numpy(going))

    @property
    def num_decisions(self) -> int:
        return self._control.num_plans


class EnvironmentDynamics:
    """A world as a model of itself: its features are its states."""

    history = 1

    def __init__(self, world: Environment, block: int) -> None:
        self._world, self.block = world, block

    def features(self, states: Floats) -> Tensor:
        """[B, S] -> [B, 1, S]."""
        return torch.from_numpy(states)[:, None]

    def encode(self, video: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        raise NotImplementedError("the world is told states, it reads no pictures")

    def predict(self, z: Tensor, actions: Tensor, states: Tensor | None = None) -> Tensor:
        """[B, 1, S], [B, m, D] -> [B, m, S]."""
        done = actions.numpy().reshape(len(actions), actions.shape[1] * self.block, -1)
        reached = self._world.rollout(z[:, -1].numpy(), done)[:, self.block - 1 :: self.block]
        return torch.from_numpy(np.ascontiguousarray(reached))


def encode_images(model: PlannableModel, pictures: Images) -> Tensor:
    """Features of single pictures, uint8 [B, H, W, 3] -> [B, area, dim]."""
    return model.encode(pictures[:, None])


def _build_controller(
    model: PlannableModel,
    planning: Planning,
    bounds: ActionBounds,
    seed: int,
    read: StateReadout | None,
) -> MPCController:
    aim = GoalDistance(planning.cost, planning.distance, read)
    recede = MPCConfig(planning.horizon, planning.receding_horizon, planning.context_timesteps, aim)
    draws = torch.Generator().manual_seed(seed)
    return MPCController(model, build_solver(planning.solver), bounds, recede, draws)


def _to_action_blocks(actions: Tensor, model: PlannableModel) -> Floats:
    """[B, D] -> [B, block, A]."""
    done: Floats = actions.cpu().numpy().reshape(len(actions), model.block, -1)
    return done
