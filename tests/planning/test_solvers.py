"""Solvers against optima that are known, and against a plain search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.environments.two_rooms import ROOM_SIZE
from orchestrator.errors import JobFailed, RequestError
from orchestrator.job.config.planning import CEM, MPPI
from orchestrator.planning.base import ActionBounds, Solver
from orchestrator.planning.build import build_solver
from orchestrator.planning.goal_cost import GoalDistance, PlanningContext, goal_cost
from orchestrator.planning.noise import candidate_noise
from tests.support.two_rooms_model import TwoRoomsModel

BOX = ActionBounds(-torch.ones(4), torch.ones(4), block=2)
CONFIGS = [
    CEM(iterations=20),
    CEM(iterations=20, noise_correlation=0),
    MPPI(kind="mppi", iterations=20),
]
SHARES = [0.02, 0.01, 0.01]
"""How much of the way to the optimum may be left. Noise that is smooth in time gets to optima
that are rough in time more slowly."""


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Quadratic:
    """(a - best)' Q (a - best) with another best, and another Q, for each problem."""

    def __init__(self, rows: int, scale: float = 0.6) -> None:
        draw = drawn(5)
        self.best = scale * torch.randn(rows, 12, generator=draw)
        half = torch.randn(rows, 12, 12, generator=draw) / 12**0.5
        self.form = half @ half.mT + 0.3 * torch.eye(12)

    def __call__(self, candidates: Tensor) -> Tensor:
        apart = candidates.flatten(2) - self.best[:, None]
        return torch.einsum("bni,bij,bnj->bn", apart, self.form, apart)

    def inside(self) -> Tensor:
        """The optimum within [-1, 1], by projected gradient descent in float64."""
        at = torch.zeros_like(self.best).double()
        form, best = self.form.double(), self.best.double()
        for _ in range(4000):
            at = (at - 0.05 * torch.einsum("bij,bj->bi", form, at - best)).clamp(-1, 1)
        return at.float()


@pytest.mark.parametrize(("config", "share"), list(zip(CONFIGS, SHARES, strict=True)))
def test_a_quadratic_s_optimum_is_found_within_bounds(config: CEM | MPPI, share: float) -> None:
    cost = Quadratic(3)
    best = cost.inside()
    assert best.abs().max() == 1, "some problem's optimum should lie on the border"
    plan = build_solver(config).solve(cost, torch.zeros(3, 3, 4), BOX, drawn())
    assert plan.actions.abs().max() <= 1
    reachable = cost(best.view(3, 1, 3, 4))[:, 0]
    at_rest = cost(torch.zeros(3, 1, 3, 4))[:, 0]
    assert ((plan.cost - reachable) < share * (at_rest - reachable)).all()
    torch.testing.assert_close(plan.cost, cost(plan.actions[:, None])[:, 0])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_twice_the_same_and_never_worse_than_the_start(config: CEM | MPPI) -> None:
    cost, solver = Quadratic(2), build_solver(config)
    first = solver.solve(cost, torch.zeros(2, 3, 4), BOX, drawn(1))
    again = solver.solve(cost, torch.zeros(2, 3, 4), BOX, drawn(1))
    other = solver.solve(cost, torch.zeros(2, 3, 4), BOX, drawn(2))
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)
    best = cost.inside().view(2, 3, 4)
    short = type(config)(**{**config.model_dump(), "iterations": 1})
    from_best = build_solver(short).solve(cost, best, BOX, drawn())
    assert (from_best.cost <= cost(best[:, None])[:, 0] + 1e-6).all()


def test_two_ways_around_are_not_averaged() -> None:
    """Both sides of an obstacle are good, its middle is the worst: the plan is on a side."""

    def cost(candidates: Tensor) -> Tensor:
        aside = candidates[..., 0].mean(-1)
        return (aside.abs() - 0.7).square() + 3 * torch.exp(-(aside**2) / 0.02)

    plan = build_solver(CEM()).solve(cost, torch.zeros(8, 3, 4), BOX, drawn())
    assert plan.cost.max() < 0.01
    assert plan.actions[..., 0].mean(-1).abs().min() > 0.5


def test_through_the_door_though_the_wall_is_nearer() -> None:
    """The goal is behind the wall, and its straight distance is a trap: 16 is near enough."""
    model = TwoRoomsModel()
    start, goal = (
        torch.tensor([[90.0, 90.0]]) / ROOM_SIZE,
        torch.tensor([[135.0, 80.0]]) / ROOM_SIZE,
    )
    cost = goal_cost(
        model,
        PlanningContext(start[:, None, None], torch.zeros(1, 0, 10)),
        goal[:, None],
        GoalDistance("last", "l2"),
    )
    box = ActionBounds(-torch.ones(10), torch.ones(10), block=5)
    ends = {}
    for smooth in (0.7, 0.0):
        solver = build_solver(CEM(noise_correlation=smooth, candidates=300, iterations=10))
        plan = solver.solve(cost, torch.zeros(1, 5, 10), box, drawn())
        ends[smooth] = float(plan.cost.mul(2).sqrt() * ROOM_SIZE)
    assert ends[0.7] < 16 < ends[0.0]


def test_what_is_no_number_is_never_chosen() -> None:
    quadratic = Quadratic(2)

    def cost(candidates: Tensor) -> Tensor:
        found = quadratic(candidates)
        return found.where(candidates[..., 0, 0] > -0.5, float("nan"))

    for config in CONFIGS:
        plan = build_solver(config).solve(cost, torch.zeros(2, 3, 4), BOX, drawn())
        assert plan.cost.isfinite().all()
        assert (plan.actions[:, 0, 0] > -0.5).all()
    with pytest.raises(JobFailed, match="no number"):
        build_solver(CEM()).solve(
            lambda c: c.new_full(c.shape[:2], float("nan")), torch.zeros(1, 3, 4), BOX, drawn()
        )


def test_noise_has_the_correlation_that_is_asked_for() -> None:
    drawn_noise = candidate_noise((2, 8000, 3, 4), 2, 0.8, drawn())
    apart = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    for half, correlation in ((slice(4000), 0.8), (slice(4000, None), 1e-9)):
        noise = drawn_noise[:, half].reshape(8000, 6, 2).double().numpy()
        assert np.abs(np.corrcoef(noise[..., 0].T) - correlation**apart).max() < 0.04
        assert np.abs(noise.std(0) - 1).max() < 0.04
        assert abs(np.corrcoef(noise[:, 0, 0], noise[:, 0, 1])[0, 1]) < 0.04


class Halfway:
    """A solver of one's own: half of the way to the upper bound."""

    from pydantic import BaseModel

    class Config(BaseModel):
        share: float = 0.5

    def __init__(self, config: Config) -> None:
        self.config = config

    def solve(self, cost: object, start: Tensor, bounds: ActionBounds, generator: object) -> object:
        raise NotImplementedError


def test_a_solver_of_one_s_own_by_import_path() -> None:
    from orchestrator.job.config.base import CustomComponent

    made = build_solver(CustomComponent(kind="test_solvers:Halfway", share=0.25))
    assert isinstance(made, Solver)
    with pytest.raises(RequestError, match=r"no `solve`"):
        build_solver(CustomComponent(kind="test_solvers:NoSolver"))


class NoSolver:
    from pydantic import BaseModel

    class Config(BaseModel):
        pass

    def __init__(self, config: Config) -> None: ...
