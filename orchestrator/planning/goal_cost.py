"""Cost of a plan: the distance between its predicted outcome and the goal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from orchestrator.planning.base import Cost, PlannableModel, SupportsRolloutPlans

MAX_FEATURES_PER_CALL = 2**26
"""Maximum number of predicted feature values per call (256 MB in float32)."""


@dataclass(frozen=True)
class GoalDistance:
    """The distance between a predicted future and the goal."""

    timesteps: Literal["last", "every"] = "last"
    """Compare the last predicted timestep, or the mean over all."""

    distance: Literal["l1", "l2"] = "l2"
    """Mean absolute or mean squared difference of features."""

    readout: Callable[[Tensor], Tensor] | None = None
    """What the goal is compared with, if not the features themselves: states read off them, say;
    [..., area, dim] -> [..., n, width], as the goal is."""

    def compute(self, ahead: Tensor, goal: Tensor) -> Tensor:
        """[..., H, area, dim] and a goal [..., area, dim] -> [...]."""
        shown = ahead[..., -1:, :, :] if self.timesteps == "last" else ahead
        shown = shown if self.readout is None else self.readout(shown)
        difference = shown - goal[..., None, :, :]
        each = difference.abs() if self.distance == "l1" else difference.square()
        return each.flatten(-3).mean(-1)


@dataclass(frozen=True)
class PlanningContext:
    """Observations and actions so far in B episodes, as input of planning."""

    latents: Tensor
    """Features of the last h timesteps, [B, h, area, dim]."""

    past_actions: Tensor
    """Actions between them, [B, h - 1, D]."""

    states: Tensor | None = None
    """States [B, h, S], if the model reads them."""


class GoalCost:
    """The cost of candidates [B, N, H, D]: the predicted distance from the goal, [B, N]."""

    def __init__(
        self,
        model: PlannableModel,
        context: PlanningContext,
        goal: Tensor,
        goal_distance: GoalDistance,
    ) -> None:
        self._model, self._goal, self._aim = model, goal, goal_distance
        self._known = (context.latents.flatten(1, 2), context.past_actions, context.states)
        self._moments, self._area, self._dim = context.latents.shape[1:]

    def __call__(self, candidates: Tensor) -> Tensor:
        rows, count, steps, _ = candidates.shape
        size = max(1, MAX_FEATURES_PER_CALL // ((self._moments + steps) * self._area * self._dim))
        costs = [
            torch.cat([self._of(part, some) for some in torch.split(candidates[part], size, 1)], 1)
            for part in _slices(rows, max(1, size // count))
        ]
        return torch.cat(costs).float()

    def _of(self, rows: slice, candidates: Tensor) -> Tensor:
        """The cost of some candidates of some problems."""
        z, past, states = (None if one is None else one[rows] for one in self._known)
        assert z is not None
        assert past is not None
        if isinstance(self._model, SupportsRolloutPlans):
            ahead = self._model.branch(z, past, candidates, states)
        else:
            ahead = rollout_plans_one_by_one(self._model, z, past, candidates, states)
        ahead = ahead.view(*candidates.shape[:3], self._area, self._dim)
        return self._aim.compute(ahead, self._goal[rows, None])


def rollout_plans_one_by_one(
    model: PlannableModel, z: Tensor, past: Tensor, plans: Tensor, states: Tensor | None
) -> Tensor:
    """What `Branching.branch` gives, of any model: what is known, once for each plan."""
    problems, count = plans.shape[:2]

    def each(one: Tensor) -> Tensor:
        return one[:, None].expand(-1, count, *one.shape[1:]).flatten(0, 1)

    actions = torch.cat([each(past), plans.flatten(0, 1)], 1)
    ahead = model.predict(each(z), actions, None if states is None else each(states))
    return ahead.view(problems, count, *ahead.shape[1:])


def _slices(rows: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, rows, size)]


def goal_cost(
    model: PlannableModel, context: PlanningContext, goal: Tensor, goal_distance: GoalDistance
) -> Cost:
    """The distance that is predicted from `goal`, [B, area, dim] or as `readout` gives it."""
    return GoalCost(model, context, goal, goal_distance)
