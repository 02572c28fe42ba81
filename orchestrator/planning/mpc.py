"""Receding-horizon control: plan, execute the first steps, observe, replan from the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from orchestrator.planning.base import ActionBounds, PlannableModel, Solver
from orchestrator.planning.goal_cost import GoalDistance, PlanningContext, goal_cost


@dataclass(frozen=True)
class MPCConfig:
    """Planning horizon, and how much of a plan is executed."""

    horizon: int = 5
    """Model steps of a plan."""

    receding_horizon: int = 1
    """Model steps that are executed before the next plan is made."""

    context_timesteps: int | None = None
    """Moments that the model is told of. Default: so many that the whole plan fits into what it
    reads at once, but at least two, which show what moves."""

    goal_distance: GoalDistance = field(default_factory=GoalDistance)


class MPCController:
    """Controls B episodes in parallel, one model step per call.

    The model encodes every moment by itself: an observation is encoded once, when it is made.
    """

    def __init__(
        self,
        model: PlannableModel,
        solver: Solver,
        bounds: ActionBounds,
        recede: MPCConfig,
        generator: torch.Generator,
    ) -> None:
        self.model, self.solver, self.bounds, self.config = model, solver, bounds, recede
        self._generator = generator
        room = model.history - recede.horizon + 1
        self._history = min(model.history, recede.context_timesteps or max(2, room))
        self.num_plans, self.planning_s = 0, 0.0

    def reset(self, goal: Tensor) -> None:
        """Start new episodes, with goal features [B, area, dim]."""
        self._goal = goal
        self._latents: list[Tensor] = []
        self._past_actions: list[Tensor] = []
        self._states: list[Tensor] = []
        self._plan = goal.new_zeros(len(goal), 0, len(self.bounds.low))
        self._next_step = self.config.receding_horizon

    def act(self, z: Tensor, states: Tensor | None = None) -> Tensor:
        """Choose the next actions, [B, D].

        Args:
            z: features of the present moment, [B, area, dim].
            states: the present states [B, S], where the model reads them.
        """
        history = self._history
        self._latents = [*self._latents, z][-history:]
        self._past_actions = (
            self._past_actions[-(len(self._latents) - 1) :] if len(self._latents) > 1 else []
        )
        if states is not None:
            self._states = [*self._states, states][-history:]
        if self._next_step >= self.config.receding_horizon:
            self._replan()
        now = self._plan[:, self._next_step]
        self._next_step += 1
        self._past_actions.append(now)
        return now

    def keep_episodes(self, going: Tensor) -> None:
        """Continue with some of the episodes, bool [B]."""
        self._goal, self._plan = self._goal[going], self._plan[going]
        self._latents = [one[going] for one in self._latents]
        self._past_actions = [one[going] for one in self._past_actions]
        self._states = [one[going] for one in self._states]

    def _replan(self) -> None:
        began = time.perf_counter()
        rows, width = len(self._goal), len(self.bounds.low)
        left = self._plan[:, self._next_step :]
        unknown = left.new_zeros(rows, self.config.horizon - left.shape[1], width)
        past = torch.stack(self._past_actions, 1) if self._past_actions else left[:, :0]
        states = torch.stack(self._states, 1) if self._states else None
        known = PlanningContext(torch.stack(self._latents, 1), past, states)
        cost = goal_cost(self.model, known, self._goal, self.config.goal_distance)
        start = torch.cat([left, unknown], 1)
        self._plan = self.solver.solve(cost, start, self.bounds, self._generator).actions
        self._next_step = 0
        self.num_plans += rows
        self.planning_s += time.perf_counter() - began
