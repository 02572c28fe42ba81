"""Protocols of solvers, costs and plannable world models. Plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Cost = Callable[[Tensor], Tensor]
"""From candidates [B, N, H, D] to their costs [B, N]: B problems, N candidates, H model steps of D
numbers each (the actions of a block of control steps, side by side, in the environment's units)."""


@dataclass(frozen=True)
class ActionBounds:
    """Bounds of the actions: float32 [D] each."""

    low: Tensor
    high: Tensor

    block: int = 1
    """Control steps whose actions lie side by side in D."""


@dataclass(frozen=True)
class ActionPlan:
    """Result of a solver."""

    actions: Tensor
    """float32 [B, H, D]."""

    cost: Tensor
    """float32 [B]: the predicted cost of these actions."""


@runtime_checkable
class Solver(Protocol):
    """Searches for actions of low cost. Made by `Name(config)`."""

    def solve(
        self, cost: Cost, start: Tensor, bounds: ActionBounds, generator: torch.Generator
    ) -> ActionPlan:
        """`start`: where the search begins, [B, H, D]: what is left of the last plan, or zeros."""


@runtime_checkable
class PlannableModel(Protocol):
    """A world model that can be planned with. `orchestrator.load_model` gives one."""

    block: int
    """Control steps of a model step."""

    history: int
    """Maximum number of timesteps that `predict` reads."""

    def encode(self, video: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [B, T, H, W, 3] -> [B, n, dim], n tokens of T moments."""

    def predict(self, z: Tensor, actions: Tensor, states: Tensor | None = None) -> Tensor:
        """Predict the following timesteps one by one.

        Args:
            z: features of the h moments so far, [B, h * area, dim].
            actions: [B, m, D], m >= h, in the world's own units: h - 1 between the moments so far,
                then what is done next.
            states: [B, h, S] where the model reads them.

        Returns:
            [B, (m - h + 1) * area, dim].
        """


@runtime_checkable
class SupportsRolloutPlans(Protocol):
    """Optional method of a `PlannableModel`: roll out many plans from one context, at less cost."""

    def branch(
        self, z: Tensor, past: Tensor, plans: Tensor, states: Tensor | None = None
    ) -> Tensor:
        """Predict the outcome of each plan, equal to that of `predict`.

        Args:
            z: features of the h moments so far, [B, h * area, dim].
            past: what was done between them, [B, h - 1, D].
            plans: what is done next, [B, N, H, D].
            states: [B, h, S] where the model reads them.

        Returns:
            [B, N, H * area, dim].
        """
