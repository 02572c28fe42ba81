"""Many plans from one past, and `.plan`: against following every plan by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.jepa.action_conditioned import ActionConditionedModel
from orchestrator.jepa.model_files import load_folder, save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.objectives.lewm import branching
from orchestrator.job.config.planning import CEM
from orchestrator.planning.base import SupportsRolloutPlans
from orchestrator.planning.goal_cost import rollout_plans_one_by_one

ACTS = (
    "objective={kind: lewm, slices: 8, hidden: 20, weight: 0.3}",
    "model.encoder.attention=moment",
    "model.tubelet=1",
    "data.actions={block: 3, statistics: {action_mean: [0.5, -2.0], action_std: [3.0, 0.25]}}",
)


@pytest.fixture
def model(tmp_path: Path, make_job: Any) -> ActionConditionedModel:
    torch.manual_seed(3)
    job = make_job(*ACTS)
    objective = build_objective(job)
    for block in objective.predictor.blocks:  # type: ignore[union-attr]
        torch.nn.init.normal_(block.modulation.weight, std=0.3)  # gates as training leaves them
        torch.nn.init.normal_(block.modulation.bias, std=0.3)
    save_model(tmp_path, objective, None, job, {})
    loaded = load_folder(tmp_path)
    assert isinstance(loaded, ActionConditionedModel)
    return loaded


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 2


@pytest.mark.parametrize(("seen", "steps"), [(1, 1), (1, 5), (3, 5), (7, 1), (4, 6)])
@pytest.mark.parametrize("rows", [4, 512])
def test_a_branch_is_what_following_each_plan_says(
    model: ActionConditionedModel, video: Tensor, monkeypatch: pytest.MonkeyPatch, seen: int,
    steps: int, rows: int,
) -> None:  # fmt: skip
    """Within what is read at once (7 moments) by kept keys and values, beyond it (4, 6) not."""
    monkeypatch.setattr(branching, "MAX_CPU_PLANS", rows)
    assert isinstance(model, SupportsRolloutPlans)
    z, past, plans = model.encode(video[:, :seen]), drawn(2, seen - 1, 6), drawn(2, 9, steps, 6)
    found = model.branch(z, past, plans)
    wanted = rollout_plans_one_by_one(model, z, past, plans, None)
    assert found.shape == (2, 9, steps, z.shape[-1])
    assert torch.allclose(found, wanted, atol=1e-5)
    assert float(wanted.std(1).min()) > 1e-4, "plans should differ in what follows"


def test_a_branch_refuses_what_predict_refuses(
    model: ActionConditionedModel, video: Tensor
) -> None:
    z = model.encode(video[:, :2])
    with pytest.raises(RequestError, match="actions"):
        model.branch(z, drawn(2, 1, 4), drawn(2, 9, 3, 4))


def test_a_plan_is_in_the_world_s_units_and_better_than_nothing(
    model: ActionConditionedModel, video: Tensor
) -> None:
    solver = CEM(candidates=60, iterations=4, elites=8, reused_elites=2)
    now, goal = video[0, 0], np.asarray(video[1, -1])
    actions = model.plan(now, goal, horizon=4, solver=solver)
    assert actions.shape == (12, 2)
    low, high = torch.tensor([-5.5, -2.5]), torch.tensor([6.5, -1.5])
    assert bool(((actions >= low) & (actions <= high)).all())
    assert torch.equal(actions, model.plan(now, goal, horizon=4, solver=solver))
    wanted = model.encode(video[1:2, -1:])

    def apart(done: Tensor) -> float:
        ahead = model.predict(model.encode(video[:1, :1]), done.reshape(1, 4, 6))
        return float((ahead[:, -1:] - wanted).square().mean())

    assert apart(actions) < apart(torch.tensor([0.5, -2.0]).repeat(12, 1))
    box = ([0.0, -2.0], [1.0, 3.0])
    inside = model.plan(video[0, :2], goal, bounds=box, past=drawn(3, 2), solver=solver)
    assert inside.shape == (15, 2)
    assert bool((inside >= torch.tensor(box[0])).all())
    assert bool((inside <= torch.tensor(box[1])).all())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"observation": np.zeros((8, 8, 3))}, r"observation: got float64 \[1, 8, 8, 3\]"),
        ({"goal": np.zeros((2, 8, 8, 3), np.uint8)}, "2 pictures of the goal"),
        ({"observation": np.zeros((3, 8, 8, 3), np.uint8)}, r"past: \[0, 6\] beside 3 moments"),
        ({"bounds": ([0, 0], [1, 0])}, r"bounds: no box"),
    ],
)
def test_what_cannot_be_planned_is_one_error(
    model: ActionConditionedModel, change: dict[str, Any], text: str
) -> None:
    given = {key: np.zeros((8, 8, 3), np.uint8) for key in ("observation", "goal")} | change
    with pytest.raises(RequestError, match=text):
        model.plan(**given)
