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
from orchestrator.evaluation.planning.policies import BoolArray, Observations, encode_images
from orchestrator.evaluation.planning.replay_buffer import ReplayBuffer
from orchestrator.evaluation.planning.tasks import Task, TaskSet
from orchestrator.planning.base import ActionBounds, PlannableModel

HIDDEN, TRAIN_STEPS, BATCH_SIZE, LEARNING_RATE = 256, 2000, 256, 1e-3
RIDGE_PENALTY = 1e-3


class BehaviorCloningNet(nn.Module):
    """From features of now and of the goal to the actions that led from one towards the other."""

    mean: Tensor
    std: Tensor

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
        both = [(one - self.mean) / self.std for one in (now, goal)]
        out: Tensor = self.layers(torch.cat(both, -1))
        return out.clamp(-1, 1) if not self.training else out


def train_behavior_cloning(
    replay_buffer: ReplayBuffer,
    bounds: ActionBounds,
    max_goal_steps: int,
    seed: int,
    steps: int = TRAIN_STEPS,
) -> BehaviorCloningNet:
    """Goal-conditioned behaviour cloning: goals are seen 1 to `max_goal_steps` steps later."""
    features = torch.cat([one.features for one in replay_buffer.episodes])
    actions = torch.cat(
        [F.pad(torch.from_numpy(v.actions), (0, 0, 0, 1)) for v in replay_buffer.episodes]
    )
    middle, half = (bounds.low + bounds.high) / 2, (bounds.high - bounds.low) / 2
    wanted = (actions - middle) / half
    lengths = [len(one.features) for one in replay_buffer.episodes]
    last = torch.cat([torch.full((n,), n - 1) - torch.arange(n) for n in lengths])
    usable = torch.nonzero(last > 0)[:, 0]
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cloner = BehaviorCloningNet(features.shape[1], actions.shape[1])
    cloner.mean, cloner.std = features.mean(0), features.std(0).clamp_min(1e-6)
    optimizer = torch.optim.AdamW(cloner.parameters(), LEARNING_RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    cloner.train()
    for _ in range(steps):
        now = usable[torch.randint(len(usable), (BATCH_SIZE,), generator=draw)]
        room = last[now].clamp_max(max_goal_steps)
        ahead = 1 + (torch.rand(BATCH_SIZE, generator=draw) * room).long().clamp_max(room - 1)
        loss = F.mse_loss(cloner(features[now], features[now + ahead]), wanted[now])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()
    return cloner.eval().requires_grad_(False)


class BehaviorCloningPolicy:
    """Does what the data's actor would have done on the way to such a goal."""

    needs_images = True

    def __init__(
        self,
        model: PlannableModel,
        memory: ReplayBuffer,
        cloner: BehaviorCloningNet,
        bounds: ActionBounds,
    ) -> None:
        self._model, self._memory, self._cloner, self._bounds = model, memory, cloner, bounds
        self.num_decisions = 0

    def reset(self, tasks: Sequence[Task], goals: Observations) -> None:
        self._goal = self._memory.flatten(encode_images(self._model, goals.images))

    def act(self, observations: Observations) -> Floats:
        seen = self._memory.flatten(encode_images(self._model, observations.images))
        share, box = self._cloner(seen, self._goal), self._bounds
        done = (box.low + box.high) / 2 + share * (box.high - box.low) / 2
        self.num_decisions += len(done)
        blocks: Floats = done.numpy().reshape(len(done), self._model.block, -1)
        return blocks

    def keep_active(self, going: BoolArray) -> None:
        self._goal = self._goal[torch.from_numpy(going)]


class NearestTrajectoryPolicy:
    """Finds where the data went from here to there, and does the same; then looks again.

    Here and there are `steps` model steps apart; nearest is least in the sum of both squared
    distances of features.
    """

    needs_images = True

    def __init__(self, model: PlannableModel, memory: ReplayBuffer, steps: int) -> None:
        self._model, self._memory = model, memory
        fitting = [one for one in memory.episodes if len(one.features) > steps]
        if not fitting:
            raise RequestError(
                f"no video of it lasts {steps} model steps, which goals are away",
                where="planning.data",
                hint="name longer videos, or leave nearest out of planning.baselines",
            )
        self._start_features = torch.cat([one.features[:-steps] for one in fitting])
        self._end_features = torch.cat([one.features[steps:] for one in fitting])
        self._trajectories = np.concatenate(
            [
                np.stack([one.actions[at : at + steps] for at in range(len(one.features) - steps)])
                for one in fitting
            ]
        )
        self._block, self.num_decisions = model.block, 0

    def reset(self, tasks: Sequence[Task], goals: Observations) -> None:
        self._goal = self._memory.flatten(encode_images(self._model, goals.images))

    def act(self, observations: Observations) -> Floats:
        seen = self._memory.flatten(encode_images(self._model, observations.images))
        here, there = (
            torch.cdist(seen, self._start_features),
            torch.cdist(self._goal, self._end_features),
        )
        self.num_decisions += len(seen)
        ways = self._trajectories[(here.square() + there.square()).argmin(1).numpy()]
        done: Floats = ways.reshape(len(ways), ways.shape[1] * self._block, -1)
        return done

    def keep_active(self, going: BoolArray) -> None:
        self._goal = self._goal[torch.from_numpy(going)]


@dataclass(frozen=True)
class LinearStateReadout:
    """A linear map from features to what of states is compared."""

    replay_buffer: ReplayBuffer
    weight: Tensor
    """[W + 1, M]."""

    def __call__(self, features: Tensor) -> Tensor:
        """[..., area, dim] -> [..., 1, M]."""
        rows = self.replay_buffer.flatten(features)
        read = rows @ self.weight[:-1] + self.weight[-1]
        return read[..., None, :]


def fit_state_readout(memory: ReplayBuffer, tasks: TaskSet) -> LinearStateReadout:
    """Fit a ridge regression of what is compared of states on features.

    Raises:
        RequestError: the data has no states, or other ones than the world.
    """
    states = np.concatenate([one.states for one in memory.episodes])
    width = len(tasks.all[0].start)
    if states.shape[1] != width:
        raise RequestError(
            f"its states have {states.shape[1]} numbers, the world's {width}",
            where="planning.data",
            hint="name data with the world's KEY.states.npy, or compare features of pictures",
        )
    features = torch.cat([one.features for one in memory.episodes]).double()
    x = torch.cat([features, torch.ones(len(features), 1).double()], 1)
    penalty = RIDGE_PENALTY * x.square().mean() * len(x) * torch.eye(x.shape[1]).double()
    penalty[-1, -1] = 0
    wanted = torch.from_numpy(tasks.scaled_success_features(states)).double()
    weight = torch.linalg.solve(x.T @ x + penalty, x.T @ wanted)
    return LinearStateReadout(memory, weight.float())
