"""Who acts from the training data alone: imitation, the nearest trajectory; and a state reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.environments.base import Floats
from orchestrator.errors import RequestError
from orchestrator.evaluation.planning.policies import Bools, Sight, moment
from orchestrator.evaluation.planning.replay_buffer import Memory
from orchestrator.evaluation.planning.tasks import Task, Tasks
from orchestrator.planning.base import Bounds, Dynamics

HIDDEN, STEPS, ROWS, RATE = 256, 2000, 256, 1e-3
RIDGE = 1e-3


class Cloner(nn.Module):
    """From features of now and of the goal to the actions that led from one towards the other."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, actions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Linear(2 * width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(),
            nn.Linear(HIDDEN, actions),
        )  # fmt: skip

    def forward(self, now: Tensor, goal: Tensor) -> Tensor:
        """[B, W], [B, W] -> [B, D] in [-1, 1], shares of the bounds."""
        both = [(one - self.mean) / self.spread for one in (now, goal)]
        out: Tensor = self.layers(torch.cat(both, -1))
        return out.clamp(-1, 1) if not self.training else out


def clone(memory: Memory, bounds: Bounds, furthest: int, seed: int, steps: int = STEPS) -> Cloner:
    """Goal-conditioned behaviour cloning: goals are what was seen 1 to `furthest` steps later."""
    features = torch.cat([one.features for one in memory.videos])
    actions = torch.cat([F.pad(torch.from_numpy(v.actions), (0, 0, 0, 1)) for v in memory.videos])
    middle, half = (bounds.low + bounds.high) / 2, (bounds.high - bounds.low) / 2
    wanted = (actions - middle) / half
    lengths = [len(one.features) for one in memory.videos]
    last = torch.cat([torch.full((n,), n - 1) - torch.arange(n) for n in lengths])
    usable = torch.nonzero(last > 0)[:, 0]
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cloner = Cloner(features.shape[1], actions.shape[1])
    cloner.mean, cloner.spread = features.mean(0), features.std(0).clamp_min(1e-6)
    optimizer = torch.optim.AdamW(cloner.parameters(), RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    cloner.train()
    for _ in range(steps):
        now = usable[torch.randint(len(usable), (ROWS,), generator=draw)]
        room = last[now].clamp_max(furthest)
        ahead = 1 + (torch.rand(ROWS, generator=draw) * room).long().clamp_max(room - 1)
        loss = F.mse_loss(cloner(features[now], features[now + ahead]), wanted[now])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()
    return cloner.eval().requires_grad_(False)


class Cloning:
    """Does what the data's actor would have done on the way to such a goal."""

    looks = True

    def __init__(self, model: Dynamics, memory: Memory, cloner: Cloner, bounds: Bounds) -> None:
        self._model, self._memory, self._cloner, self._bounds = model, memory, cloner, bounds
        self.decisions = 0

    def begin(self, tasks: Sequence[Task], goals: Sight) -> None:
        self._goal = self._memory.flat(moment(self._model, goals.pictures))

    def act(self, now: Sight) -> Floats:
        seen = self._memory.flat(moment(self._model, now.pictures))
        share, box = self._cloner(seen, self._goal), self._bounds
        done = (box.low + box.high) / 2 + share * (box.high - box.low) / 2
        self.decisions += len(done)
        blocks: Floats = done.numpy().reshape(len(done), self._model.block, -1)
        return blocks

    def keep(self, going: Bools) -> None:
        self._goal = self._goal[torch.from_numpy(going)]


class Nearest:
    """Finds where the data went from here to there, and does the same; then looks again.

    Here and there are `steps` model steps apart; nearest is least in the sum of both squared
    distances of features.
    """

    looks = True

    def __init__(self, model: Dynamics, memory: Memory, steps: int) -> None:
        self._model, self._memory = model, memory
        fitting = [one for one in memory.videos if len(one.features) > steps]
        if not fitting:
            raise RequestError(
                f"no video of it lasts {steps} model steps, which goals are away",
                where="planning.data",
                mend="name longer videos, or leave nearest out of planning.arms",
            )
        self._here = torch.cat([one.features[:-steps] for one in fitting])
        self._there = torch.cat([one.features[steps:] for one in fitting])
        self._ways = np.concatenate(
            [
                np.stack([one.actions[at : at + steps] for at in range(len(one.features) - steps)])
                for one in fitting
            ]
        )
        self._block, self.decisions = model.block, 0

    def begin(self, tasks: Sequence[Task], goals: Sight) -> None:
        self._goal = self._memory.flat(moment(self._model, goals.pictures))

    def act(self, now: Sight) -> Floats:
        seen = self._memory.flat(moment(self._model, now.pictures))
        here, there = torch.cdist(seen, self._here), torch.cdist(self._goal, self._there)
        self.decisions += len(seen)
        ways = self._ways[(here.square() + there.square()).argmin(1).numpy()]
        done: Floats = ways.reshape(len(ways), ways.shape[1] * self._block, -1)
        return done

    def keep(self, going: Bools) -> None:
        self._goal = self._goal[torch.from_numpy(going)]


@dataclass(frozen=True)
class StateReader:
    """A linear map from features to what of states is compared."""

    memory: Memory
    weight: Tensor
    """[W + 1, M]."""

    def __call__(self, features: Tensor) -> Tensor:
        """[..., area, dim] -> [..., 1, M]."""
        rows = self.memory.flat(features)
        read = rows @ self.weight[:-1] + self.weight[-1]
        return read[..., None, :]


def read_states(memory: Memory, tasks: Tasks) -> StateReader:
    """Fit a ridge regression of what is compared of states on features.

    Raises:
        RequestError: the data has no states, or other ones than the world.
    """
    states = np.concatenate([one.states for one in memory.videos])
    width = len(tasks.all[0].start)
    if states.shape[1] != width:
        raise RequestError(
            f"its states have {states.shape[1]} numbers, the world's {width}",
            where="planning.data",
            mend="name data with the world's KEY.states.npy, or compare features of pictures",
        )
    features = torch.cat([one.features for one in memory.videos]).double()
    x = torch.cat([features, torch.ones(len(features), 1).double()], 1)
    penalty = RIDGE * x.square().mean() * len(x) * torch.eye(x.shape[1]).double()
    penalty[-1, -1] = 0
    wanted = torch.from_numpy(tasks.measured(states)).double()
    weight = torch.linalg.solve(x.T @ x + penalty, x.T @ wanted)
    return StateReader(memory, weight.float())
