"""`load_model(uri).plan(...)`: one plan for one observation and one goal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.job.config.planning import CEM, AnySolver
from orchestrator.planning.base import ActionBounds, PlannableModel
from orchestrator.planning.build import build_solver
from orchestrator.planning.goal_cost import GoalDistance, PlanningContext, goal_cost

Images = Tensor | npt.NDArray[np.uint8]


def plan_actions(
    model: PlannableModel,
    observation: Images,
    goal: Images,
    bounds: ActionBounds,
    *,
    horizon: int = 5,
    solver: AnySolver | None = None,
    past_actions: Tensor | None = None,
    states: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Plan actions that lead from the observation towards the goal, by the model's predictions.

    Args:
        observation: uint8 [H, W, 3], or [T, H, W, 3]: T moments, a model step apart.
        goal: uint8 [H, W, 3].
        bounds: of a model step's D numbers.
        horizon: model steps.
        solver: who searches; default: the cross-entropy method.
        past_actions: what was done between T > 1 moments, [T - 1, D].
        states: of the T moments, [T, S], where the model reads them.

    Returns:
        float32 [horizon, D].

    Raises:
        RequestError: an observation, a goal or a past of another shape.
        JobFailed: the model predicts no number.
    """
    seen, wanted = _as_frames(observation, "observation"), _as_frames(goal, "goal")
    if len(wanted) != 1:
        raise RequestError(
            f"{len(wanted)} pictures of the goal", where="goal", hint="give one, uint8 [H, W, 3]"
        )
    width = len(bounds.low)
    past_actions = torch.zeros(0, width) if past_actions is None else past_actions.float()
    if past_actions.shape != (len(seen) - 1, width):
        raise RequestError(
            f"{list(past_actions.shape)} beside {len(seen)} moments",
            where="past",
            hint=f"give what was done between them: [{len(seen) - 1}, {width}]",
        )
    with torch.inference_mode():
        z, aim = model.encode(seen[None]), model.encode(wanted[None])
        z = z.view(1, len(seen), -1, z.shape[-1])
        known = PlanningContext(
            z, past_actions[None].to(z), None if states is None else states[None].to(z)
        )
        start = z.new_zeros(1, horizon, width)
        cost = goal_cost(model, known, aim, GoalDistance())
        draws = torch.Generator().manual_seed(seed)
        found = build_solver(solver or CEM()).solve(cost, start, bounds, draws)
    return found.actions[0].float().cpu().clone()


def action_bounds(low: Sequence[float], high: Sequence[float], frameskip: int) -> ActionBounds:
    """Bounds of the actions of a model step, from those of a control step, [A].

    Raises:
        RequestError: they are not below each other, or not finite.
    """
    least, most = (
        torch.tensor(side, dtype=torch.float32).repeat(frameskip) for side in (low, high)
    )
    fits = least.shape == most.shape and bool(torch.cat([least, most]).isfinite().all())
    if not fits or not bool((least < most).all()):
        raise RequestError(
            f"no box: from {list(low)} to {list(high)}",
            where="bounds",
            hint="give the least and the largest value of each number of an action",
        )
    return ActionBounds(least, most, frameskip)


def _as_frames(pictures: Images, where: str) -> Tensor:
    """uint8 [T, H, W, 3]."""
    shown = pictures if isinstance(pictures, Tensor) else torch.from_numpy(np.asarray(pictures))
    shown = shown[None] if shown.ndim == 3 else shown
    if shown.dtype != torch.uint8 or shown.ndim != 4 or shown.shape[-1] != 3 or not len(shown):
        raise RequestError(
            f"got {str(shown.dtype).removeprefix('torch.')} {list(shown.shape)}",
            where=where,
            hint="give uint8 [H, W, 3]",
        )
    return shown
