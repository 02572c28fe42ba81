"""Who acts: the model's planner, the same planner with the world itself, and chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.environments.base import Floats, World
from orchestrator.evaluation.planning.tasks import Task, Tasks
from orchestrator.job.config.planning import Planning
from orchestrator.planning.base import Bounds, Dynamics
from orchestrator.planning.build import build_solver
from orchestrator.planning.goal_cost import Aim
from orchestrator.planning.mpc import Controller, Recede
from orchestrator.randomness import generator

Pictures = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Measured = Callable[[Floats], Floats]
Read = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sight:
    """What is before B actors."""

    pictures: Pictures
    """uint8 [B, size, size, 3]."""

    states: Floats
    """float32 [B, S]."""


class Arm(Protocol):
    """Acts in B episodes at once."""

    looks: bool
    """Whether it needs pictures."""

    @property
    def decisions(self) -> int:
        """Times that it made up its mind, over all episodes."""

    def begin(self, tasks: Sequence[Task], goals: Sight) -> None:
        """New episodes."""

    def act(self, now: Sight) -> Floats:
        """What to do in the next control steps, [B, n, A]."""

    def keep(self, going: Bools) -> None:
        """The others have ended."""


class Random:
    """Draws from the whole action space: another action in every control step."""

    looks = False

    def __init__(self, bounds: Bounds, block: int, seed: int) -> None:
        self._low, self._high = (side.numpy() for side in (bounds.low, bounds.high))
        self._block, self._seed, self.decisions = block, seed, 0

    def begin(self, tasks: Sequence[Task], goals: Sight) -> None:
        self._draws = [generator(self._seed, task.number, "arms") for task in tasks]

    def act(self, now: Sight) -> Floats:
        drawn = [draw.uniform(self._low, self._high) for draw in self._draws]
        self.decisions += len(drawn)
        return np.stack(drawn).astype(np.float32).reshape(len(drawn), self._block, -1)

    def keep(self, going: Bools) -> None:
        self._draws = [draw for draw, goes in zip(self._draws, going, strict=True) if goes]


class Planner:
    """Plans with a model that sees pictures, towards a picture or towards a state.

    Args:
        measured: what of states is compared, as `Tasks` has it.
        read: reads that off features, [..., area, dim] -> [..., 1, M]; where it is given, states
            are compared.
    """

    looks = True

    def __init__(
        self,
        model: Dynamics,
        planning: Planning,
        bounds: Bounds,
        seed: int,
        measured: Measured,
        read: Read | None = None,
    ) -> None:
        self._model, self._measured, self._read = model, measured, read
        self._shown = planning.goal == "image"
        self._control = _controller(model, planning, bounds, seed, read)

    def begin(self, tasks: Sequence[Task], goals: Sight) -> None:
        if self._read is not None and not self._shown:
            goal = torch.from_numpy(self._measured(goals.states))[:, None]
        else:
            seen = moment(self._model, goals.pictures)
            goal = seen if self._read is None else self._read(seen)
        self._control.begin(goal)

    def act(self, now: Sight) -> Floats:
        z = moment(self._model, now.pictures)
        return _blocks(self._control.act(z, torch.from_numpy(now.states).to(z.device)), self._model)

    def keep(self, going: Bools) -> None:
        self._control.keep(torch.from_numpy(going))

    @property
    def decisions(self) -> int:
        return self._control.decisions


class Oracle:
    """Plans with the world itself; now and goal are states."""

    looks = False

    def __init__(
        self, world: World, tasks: Tasks, planning: Planning, bounds: Bounds, seed: int
    ) -> None:
        self._model = TrueDynamics(world, bounds.block)
        self._measured = tasks.measured
        # Its features are states of a few numbers: squared, as the distance of states is told.
        squared = planning.model_copy(update={"distance": "l2"})
        self._control = _controller(self._model, squared, bounds, seed, self._read)

    def _read(self, features: Tensor) -> Tensor:
        return torch.from_numpy(self._measured(features.numpy()))

    def begin(self, tasks: Sequence[Task], goals: Sight) -> None:
        self._control.begin(self._read(self._model.features(goals.states)))

    def act(self, now: Sight) -> Floats:
        return _blocks(self._control.act(self._model.features(now.states)), self._model)

    def keep(self, going: Bools) -> None:
        self._control.keep(torch.from_numpy(going))

    @property
    def decisions(self) -> int:
        return self._control.decisions


class TrueDynamics:
    """A world as a model of itself: its features are its states."""

    history = 1

    def __init__(self, world: World, block: int) -> None:
        self._world, self.block = world, block

    def features(self, states: Floats) -> Tensor:
        """[B, S] -> [B, 1, S]."""
        return torch.from_numpy(states)[:, None]

    def encode(self, video: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        raise NotImplementedError("the world is told states, it reads no pictures")

    def predict(self, z: Tensor, actions: Tensor, states: Tensor | None = None) -> Tensor:
        """[B, 1, S], [B, m, D] -> [B, m, S]."""
        done = actions.numpy().reshape(len(actions), actions.shape[1] * self.block, -1)
        reached = self._world.roll(z[:, -1].numpy(), done)[:, self.block - 1 :: self.block]
        return torch.from_numpy(np.ascontiguousarray(reached))


def moment(model: Dynamics, pictures: Pictures) -> Tensor:
    """Features of single pictures, uint8 [B, H, W, 3] -> [B, area, dim]."""
    return model.encode(pictures[:, None])


def _controller(
    model: Dynamics, planning: Planning, bounds: Bounds, seed: int, read: Read | None
) -> Controller:
    aim = Aim(planning.cost, planning.distance, read)
    recede = Recede(planning.horizon, planning.execute, planning.history, aim)
    draws = torch.Generator().manual_seed(seed)
    return Controller(model, build_solver(planning.solver), bounds, recede, draws)


def _blocks(actions: Tensor, model: Dynamics) -> Floats:
    """[B, D] -> [B, block, A]."""
    done: Floats = actions.cpu().numpy().reshape(len(actions), model.block, -1)
    return done
