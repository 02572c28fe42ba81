"""Shared parts of sampling-based solvers."""

from __future__ import annotations

from torch import Tensor

from orchestrator.errors import JobFailed
from orchestrator.planning.base import ActionBounds, ActionPlan, Cost


def clip_to_bounds(actions: Tensor, bounds: ActionBounds) -> Tensor:
    """Clip actions to the bounds."""
    return actions.clamp(bounds.low.to(actions), bounds.high.to(actions))


def initial_std(bounds: ActionBounds, fraction: float) -> Tensor:
    """Initial standard deviation, [D]: a fraction of half the bounds' width."""
    return fraction * (bounds.high - bounds.low) / 2


def evaluate_costs(cost: Cost, candidates: Tensor) -> Tensor:
    """Evaluate the candidates' costs, [B, N]; NaN becomes infinity.

    Raises:
        JobFailed: a problem has none.
    """
    costs = cost(candidates)
    known = costs.isfinite()
    if not bool(known.any(1).all()):
        raise JobFailed(
            "the model predicts no number for any plan",
            where="planning",
            hint="look at the model: its predictions are NaN or infinite",
        )
    return costs.where(known, float("inf"))


class BestPlans:
    """The best plan seen so far of each problem."""

    def __init__(self) -> None:
        self._plan: ActionPlan | None = None

    def update(self, actions: Tensor, cost: Tensor) -> None:
        """Keep plans [B, H, D] whose costs [B] are lower than the best so far."""
        if self._plan is None:
            self._plan = ActionPlan(actions, cost)
            return
        better = cost < self._plan.cost
        self._plan = ActionPlan(
            actions.where(better[:, None, None], self._plan.actions),
            cost.where(better, self._plan.cost),
        )

    @property
    def plan(self) -> ActionPlan:
        """The best plans."""
        assert self._plan is not None, "nothing was offered"
        return self._plan
