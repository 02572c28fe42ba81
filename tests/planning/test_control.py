"""Receding horizon in Two Rooms, with its own dynamics for a model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from orchestrator.environments.two_rooms import TwoRooms
from orchestrator.job.config.planning import CEM
from orchestrator.planning.base import ActionBounds, ActionPlan
from orchestrator.planning.build import build_solver
from orchestrator.planning.goal_cost import GoalDistance, PlanningContext, goal_cost
from orchestrator.planning.mpc import MPCConfig, MPCController
from tests.support.two_rooms_model import TwoRoomsModel

BOX = ActionBounds(-torch.ones(10), torch.ones(10), block=5)


def pictures(worlds: list[TwoRooms]) -> np.ndarray:
    return np.stack([world.render() for world in worlds])[:, None]


def test_goals_are_reached_from_pictures_and_what_is_done_is_known() -> None:
    starts = [[60, 60], [90, 160], [170, 100]]
    goals = [[160, 60], [60, 60], [190, 180]]
    worlds = [TwoRooms() for _ in starts]
    for world, start in zip(worlds, starts, strict=True):
        world.set_state(np.float32(start))
    model = TwoRoomsModel()
    solver = build_solver(CEM(candidates=200, iterations=6))
    control = MPCController(
        model, solver, BOX, MPCConfig(horizon=5), torch.Generator().manual_seed(0)
    )
    shown = np.stack([TwoRooms().render_state(np.float32(goal)) for goal in goals])[:, None]
    control.reset(model.encode(shown)[:, :, None].flatten(1, 2))
    for _ in range(8):
        actions = control.act(model.encode(pictures(worlds))[:, :1])
        for world, block in zip(worlds, actions.view(3, 5, 2).numpy(), strict=True):
            for action in block:
                world.step(action)
    ends = np.stack([world.state for world in worlds])
    assert np.linalg.norm(ends - np.float32(goals), axis=1).max() < 16
    assert model.num_encoded_frames == 3 + 8 * 3, "each moment is encoded once"
    assert control.num_plans == 8 * 3


class Counting:
    """Says how the search began; the plan counts up."""

    def __init__(self) -> None:
        self.starts: list[Tensor] = []

    def solve(
        self, cost: object, start: Tensor, bounds: ActionBounds, generator: object
    ) -> ActionPlan:
        self.starts.append(start)
        rows, steps, width = start.shape
        plan = torch.arange(1.0, steps + 1)[None, :, None] + 10 * len(self.starts)
        return ActionPlan(plan.expand(rows, -1, width).clone(), torch.zeros(rows))


class Remembering(TwoRoomsModel):
    history = 6  # of which 4 are planned


def test_what_is_left_of_a_plan_starts_the_next_and_history_is_kept() -> None:
    solver, seen = Counting(), []
    control = MPCController(
        Remembering(), solver, BOX, MPCConfig(horizon=4, receding_horizon=2), torch.Generator()
    )
    control.reset(torch.zeros(3, 1, 2))
    for step in range(5):
        now = control.act(torch.full((3 if step < 3 else 2, 1, 2), float(step)))
        seen.append(now[0, 0].item())
        if step == 2:
            control.keep_episodes(torch.tensor([True, False, True]))
    assert seen == [11, 12, 21, 22, 31]
    begun = [start[0, :, 0].tolist() for start in solver.starts]
    assert begun == [[0, 0, 0, 0], [13, 14, 0, 0], [23, 24, 0, 0]]
    assert [one[0, 0, 0].item() for one in control._latents] == [2, 3, 4]
    assert [one[0, 0].item() for one in control._past_actions] == [21, 22, 31]
    assert all(len(one) == 2 for one in (*control._latents, *control._past_actions))


def test_the_cost_is_the_distance_of_each_candidate_s_own_future(monkeypatch) -> None:
    """Against a loop over problems and candidates, whole and in parts."""
    draw = torch.Generator().manual_seed(3)
    z = torch.rand(2, 1, 1, 2, generator=draw) * 0.3 + 0.15
    goal = torch.rand(2, 1, 2, generator=draw)
    candidates = torch.rand(2, 7, 4, 10, generator=draw) * 2 - 1
    model, past = TwoRoomsModel(), torch.zeros(2, 0, 10)
    for moments in ("last", "every"):
        for distance in ("l1", "l2"):
            wanted = torch.zeros(2, 7)
            for b in range(2):
                for n in range(7):
                    ahead = model.predict(z[b, :, 0][None], candidates[b, n][None])[0]
                    apart = ahead - goal[b]
                    apart = apart.abs() if distance == "l1" else apart**2
                    wanted[b, n] = (apart[-1] if moments == "last" else apart).mean()
            for at_once in (2**26, 5 * 2 * 3):
                monkeypatch.setattr(
                    "orchestrator.planning.goal_cost.MAX_FEATURES_PER_CALL", at_once
                )
                cost = goal_cost(
                    model, PlanningContext(z, past), goal, GoalDistance(moments, distance)
                )
                torch.testing.assert_close(cost(candidates), wanted)
