"""stable-worldmodel's protocols: its models under our solvers, and ours under a solver like its.

The stand-ins follow its `protocols.py`; its own package cannot be imported without torchvision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator.environments.two_rooms import TwoRooms
from orchestrator.errors import RequestError
from orchestrator.job.config.planning import CEM
from orchestrator.planning.base import ActionBounds
from orchestrator.planning.build import build_solver
from orchestrator.planning.goal_cost import GoalDistance, PlanningContext, goal_cost
from orchestrator.planning.stable_worldmodel import as_costable, costable_cost, dynamics_cost
from tests.support.two_rooms_model import TwoRoomsModel

BOX = ActionBounds(-3 * torch.ones(2), 3 * torch.ones(2))
STEP = 0.1


class Peer(nn.Module):
    """A model as it is written there: pixels are float, an embedding is the pixel's own value."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.encoded = 0

    def encode(self, x: dict[str, Any]) -> dict[str, Any]:
        self.encoded += 1
        x["emb"] = x["pixels"][..., 0, 0] * self.scale  # [B, T, C, H, W] -> [B, T, C]
        return x

    def rollout(self, info: dict[str, Any], actions: Tensor) -> dict[str, Any]:
        rows, count = actions.shape[:2]
        assert info["pixels"].shape[:2] == (rows, count), "info is spread over the candidates"
        if "emb" not in info:
            first = {k: v[:, 0] for k, v in info.items() if torch.is_tensor(v)}
            info["emb"] = self.encode(first)["emb"][:, None].expand(rows, count, -1, -1)
        whole = [info["emb"]]
        for step in range(actions.shape[2]):
            whole.append(whole[-1][:, :, -1:] + STEP * actions[:, :, step : step + 1])
        info["predicted_emb"] = torch.cat(whole, 2)
        return info

    def get_cost(self, info: dict[str, Any], actions: Tensor) -> Tensor:
        if "goal_emb" not in info:
            info["goal_emb"] = self.encode({"pixels": info["goal"][:, 0]})["emb"]
        predicted = self.rollout(info, actions)["predicted_emb"]
        return (predicted[:, :, -1] - info["goal_emb"][:, None, -1]).square().sum(-1)


@pytest.mark.parametrize("how", ["costable", "dynamics"])
def test_a_model_of_its_protocol_is_planned_with(how: str) -> None:
    draw = torch.Generator().manual_seed(0)
    start, goal = torch.rand(4, 2, generator=draw), torch.rand(4, 2, generator=draw)
    model = Peer()
    info = {
        "pixels": start[:, None, :, None, None].expand(4, 1, 2, 3, 3),
        "goal": goal[:, None, :, None, None].expand(4, 1, 2, 3, 3),
        "action": torch.zeros(4, 1, 2),
        "id": np.arange(4),
    }
    cost = costable_cost(model, info) if how == "costable" else dynamics_cost(model, info)
    plan = build_solver(CEM()).solve(cost, torch.zeros(4, 5, 2), BOX, draw)
    reached = start + STEP * plan.actions.sum(1)
    assert (reached - goal).abs().max() < 0.02
    if how == "costable":
        assert model.encoded == 2, "goal and observation once, not in every iteration"


def frames(states: list[list[float]]) -> Tensor:
    shown = np.stack([TwoRooms().render_state(np.float32(state)) for state in states])
    return torch.from_numpy(shown)[:, None]


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_model_of_ours_under_a_solver_like_its(channels_first: bool) -> None:
    """Its loop, as `solver/cem.py` there: one environment at a time, no bounds, mean of elites."""
    starts, goals = [[60, 60], [170, 100]], [[150, 60], [190, 180]]
    pixels, goal = frames(starts), frames(goals)
    if channels_first:
        pixels, goal = pixels.movedim(-1, 2), goal.movedim(-1, 2)
    costable, draw = as_costable(TwoRoomsModel()), torch.Generator().manual_seed(0)
    for row in range(2):
        info = {"pixels": pixels[row : row + 1], "goal": goal[row : row + 1]}
        spread = {k: v[:, None].expand(-1, 200, *v.shape[1:]) for k, v in info.items()}
        mean, deviation = torch.zeros(1, 5, 10), torch.ones(1, 5, 10)
        for _ in range(15):
            noise = torch.randn(1, 200, 5, 10, generator=draw)
            candidates = (mean[:, None] + deviation[:, None] * noise).clamp(-1, 1)
            costs = costable.get_cost(spread, candidates)
            assert costs.shape == (1, 200)
            best = candidates[0, costs[0].topk(20, largest=False).indices]
            mean, deviation = best.mean(0)[None], best.std(0)[None]
        end = TwoRooms().rollout(np.float32([starts[row]]), mean.view(1, 25, 2).numpy())[0, -1]
        assert np.linalg.norm(end - goals[row]) < 16
    assert costable.model.num_encoded_frames <= 2 * 3


def test_its_cost_is_ours() -> None:
    starts, goals = frames([[60, 60], [170, 100]]), frames([[150, 60], [190, 180]])
    model = TwoRoomsModel()
    candidates = torch.rand(2, 6, 3, 10) * 2 - 1
    spread = {"pixels": starts[:, None].expand(-1, 6, -1, -1, -1, -1),
              "goal": goals[:, None].expand(-1, 6, -1, -1, -1, -1)}  # fmt: skip
    known = PlanningContext(model.encode(starts)[:, None], torch.zeros(2, 0, 10))
    ours = goal_cost(model, known, model.encode(goals), GoalDistance())(candidates)
    torch.testing.assert_close(as_costable(model).get_cost(spread, candidates), ours)


def test_pictures_that_went_through_a_transform_are_refused() -> None:
    shown = frames([[60, 60]]).float() / 255
    with pytest.raises(RequestError, match="pixels") as error:
        as_costable(TwoRoomsModel()).encode({"pixels": shown})
    assert "uint8" in error.value.hint
