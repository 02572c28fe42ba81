"""What a plan costs: how far from the goal the model sees it end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from orchestrator.planning.base import Cost, Dynamics

AT_ONCE = 2**26
"""Numbers of features that are predicted at once (256 MB in float32)."""


@dataclass(frozen=True)
class Aim:
    """What of a predicted future is compared with the goal, and how."""

    moments: Literal["last", "every"] = "last"
    """The last predicted moment, or the mean over all."""

    distance: Literal["l1", "l2"] = "l2"
    """Mean absolute or mean squared difference of features."""

    read: Callable[[Tensor], Tensor] | None = None
    """What the goal is compared with, if not the features themselves: states read off them, say;
    [..., area, dim] -> [..., n, width], as the goal is."""

    def apart(self, ahead: Tensor, goal: Tensor) -> Tensor:
        """[..., H, area, dim] and a goal [..., area, dim] -> [...]."""
        shown = ahead[..., -1:, :, :] if self.moments == "last" else ahead
        shown = shown if self.read is None else self.read(shown)
        difference = shown - goal[..., None, :, :]
        each = difference.abs() if self.distance == "l1" else difference.square()
        return each.flatten(-3).mean(-1)


@dataclass(frozen=True)
class Known:
    """What has been seen and done in B episodes, when a plan is made."""

    z: Tensor
    """Features of the last h moments, [B, h, area, dim]."""

    past: Tensor
    """What was done between them, [B, h - 1, D]."""

    states: Tensor | None = None
    """[B, h, S], where there are any."""


class Towards:
    """The cost of candidates [B, N, H, D]: the predicted distance from the goal, [B, N].

    Features of what is known are made once, and spread over the candidates once.
    """

    def __init__(self, model: Dynamics, known: Known, goal: Tensor, aim: Aim) -> None:
        self._model, self._known, self._goal, self._aim = model, known, goal, aim
        self._spread: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}

    def __call__(self, candidates: Tensor) -> Tensor:
        rows, count, steps, _ = candidates.shape
        if count not in self._spread:
            self._spread = {count: self._over(count)}
        z, past, states = self._spread[count]
        actions = torch.cat([past, candidates.flatten(0, 1)], 1)
        goal = self._goal[:, None].expand(-1, count, -1, -1).flatten(0, 1)
        area, dim = self._known.z.shape[2:]
        size = max(1, AT_ONCE // ((actions.shape[1] + 1) * area * dim))
        costs = []
        for first in range(0, rows * count, size):
            part = slice(first, first + size)
            ahead = self._model.predict(
                z[part], actions[part], None if states is None else states[part]
            )
            ahead = ahead.view(len(ahead), steps, area, dim)
            costs.append(self._aim.apart(ahead, goal[part]))
        return torch.cat(costs).view(rows, count).float()

    def _over(self, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """What is known, once for each of `count` candidates: rows first."""

        def each(one: Tensor) -> Tensor:
            return one[:, None].expand(-1, count, *one.shape[1:]).flatten(0, 1)

        known = self._known
        states = None if known.states is None else each(known.states)
        return each(known.z.flatten(1, 2)), each(known.past), states


def towards(model: Dynamics, known: Known, goal: Tensor, aim: Aim) -> Cost:
    """The distance from `goal`, [B, area, dim] (or as `aim.read` gives it), that is predicted."""
    return Towards(model, known, goal, aim)
