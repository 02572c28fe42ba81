"""Receding horizon: plan, do the first steps, look, plan again from what is left of the plan."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from orchestrator.planning.base import Bounds, Dynamics, Solver
from orchestrator.planning.goal_cost import Aim, Known, towards


@dataclass(frozen=True)
class Recede:
    """How far plans reach, and how much of them is done."""

    horizon: int = 5
    """Model steps of a plan."""

    execute: int = 1
    """Model steps that are done before the next plan is made."""

    history: int | None = None
    """Moments that the model is told of. Default: so many that the whole plan fits into what it
    reads at once, but at least two, which show what moves."""

    aim: Aim = field(default_factory=Aim)


class Controller:
    """Acts towards goals in B episodes at once, one model step a call.

    The model encodes every moment by itself: an observation is encoded once, when it is made.
    """

    def __init__(
        self,
        model: Dynamics,
        solver: Solver,
        bounds: Bounds,
        recede: Recede,
        generator: torch.Generator,
    ) -> None:
        self.model, self.solver, self.bounds, self.recede = model, solver, bounds, recede
        self._generator = generator
        room = model.history - recede.horizon + 1
        self._history = min(model.history, recede.history or max(2, room))
        self.decisions, self.seconds = 0, 0.0

    def begin(self, goal: Tensor) -> None:
        """New episodes, with goals of features [B, area, dim]."""
        self._goal = goal
        self._z: list[Tensor] = []
        self._done: list[Tensor] = []
        self._states: list[Tensor] = []
        self._plan = goal.new_zeros(len(goal), 0, len(self.bounds.low))
        self._next = self.recede.execute

    def act(self, z: Tensor, states: Tensor | None = None) -> Tensor:
        """What to do now, [B, D].

        Args:
            z: features of the present moment, [B, area, dim].
            states: the present states [B, S], where the model reads them.
        """
        history = self._history
        self._z = [*self._z, z][-history:]
        self._done = self._done[-(len(self._z) - 1) :] if len(self._z) > 1 else []
        if states is not None:
            self._states = [*self._states, states][-history:]
        if self._next >= self.recede.execute:
            self._think()
        now = self._plan[:, self._next]
        self._next += 1
        self._done.append(now)
        return now

    def keep(self, going: Tensor) -> None:
        """Go on with some of the episodes, bool [B]."""
        self._goal, self._plan = self._goal[going], self._plan[going]
        self._z = [one[going] for one in self._z]
        self._done = [one[going] for one in self._done]
        self._states = [one[going] for one in self._states]

    def _think(self) -> None:
        began = time.perf_counter()
        rows, width = len(self._goal), len(self.bounds.low)
        left = self._plan[:, self._next :]
        unknown = left.new_zeros(rows, self.recede.horizon - left.shape[1], width)
        past = torch.stack(self._done, 1) if self._done else left[:, :0]
        states = torch.stack(self._states, 1) if self._states else None
        known = Known(torch.stack(self._z, 1), past, states)
        cost = towards(self.model, known, self._goal, self.recede.aim)
        start = torch.cat([left, unknown], 1)
        self._plan = self.solver.solve(cost, start, self.bounds, self._generator).actions
        self._next = 0
        self.decisions += rows
        self.seconds += time.perf_counter() - began
