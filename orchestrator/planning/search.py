"""What solvers that draw candidates share."""

from __future__ import annotations

from torch import Tensor

from orchestrator.errors import JobFailed
from orchestrator.planning.base import ActionBounds, ActionPlan, Cost


def clip_to_bounds(actions: Tensor, bounds: ActionBounds) -> Tensor:
    """The nearest actions within bounds."""
    return actions.clamp(bounds.low.to(actions), bounds.high.to(actions))


def initial_std(bounds: ActionBounds, fraction: float) -> Tensor:
    """Standard deviation of the first candidates, [D]: a share of half the bounds' width."""
    return fraction * (bounds.high - bounds.low) / 2


def evaluate_costs(cost: Cost, candidates: Tensor) -> Tensor:
    """The candidates' costs, [B, N]; infinite where there is no number.

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
        """[B, H, D] and [B]: kept where they cost less."""
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
        """What was found."""
        assert self._plan is not None, "nothing was offered"
        return self._plan
