"""One plan for one observation and one goal: what `load_model(uri).plan(...)` does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.job.config.planning import CEM, AnySolver
from orchestrator.planning.base import Bounds, Dynamics
from orchestrator.planning.build import build_solver
from orchestrator.planning.goal_cost import Aim, Known, towards

Pictures = Tensor | npt.NDArray[np.uint8]


def plan_once(
    model: Dynamics,
    observation: Pictures,
    goal: Pictures,
    bounds: Bounds,
    *,
    horizon: int = 5,
    solver: AnySolver | None = None,
    past: Tensor | None = None,
    states: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Actions that lead from what is observed towards the goal, as the model sees it.

    Args:
        observation: uint8 [H, W, 3], or [T, H, W, 3]: T moments, a model step apart.
        goal: uint8 [H, W, 3].
        bounds: of a model step's D numbers.
        horizon: model steps.
        solver: who searches; default: the cross-entropy method.
        past: what was done between T > 1 moments, [T - 1, D].
        states: of the T moments, [T, S], where the model reads them.

    Returns:
        float32 [horizon, D].

    Raises:
        RequestError: an observation, a goal or a past of another shape.
        JobFailed: the model predicts no number.
    """
    seen, wanted = _moments(observation, "observation"), _moments(goal, "goal")
    if len(wanted) != 1:
        raise RequestError(
            f"{len(wanted)} pictures of the goal", where="goal", mend="give one, uint8 [H, W, 3]"
        )
    width = len(bounds.low)
    past = torch.zeros(0, width) if past is None else past.float()
    if past.shape != (len(seen) - 1, width):
        raise RequestError(
            f"{list(past.shape)} beside {len(seen)} moments",
            where="past",
            mend=f"give what was done between them: [{len(seen) - 1}, {width}]",
        )
    with torch.inference_mode():
        z, aim = model.encode(seen[None]), model.encode(wanted[None])
        z = z.view(1, len(seen), -1, z.shape[-1])
        known = Known(z, past[None].to(z), None if states is None else states[None].to(z))
        start = z.new_zeros(1, horizon, width)
        cost = towards(model, known, aim, Aim())
        draws = torch.Generator().manual_seed(seed)
        found = build_solver(solver or CEM()).solve(cost, start, bounds, draws)
    return found.actions[0].float().cpu().clone()


def box(low: Sequence[float], high: Sequence[float], block: int) -> Bounds:
    """Bounds of a model step from those of a control step's A numbers.

    Raises:
        RequestError: they are not below each other, or not finite.
    """
    least, most = (torch.tensor(side, dtype=torch.float32).repeat(block) for side in (low, high))
    fits = least.shape == most.shape and bool(torch.cat([least, most]).isfinite().all())
    if not fits or not bool((least < most).all()):
        raise RequestError(
            f"no box: from {list(low)} to {list(high)}",
            where="bounds",
            mend="give the least and the largest value of each number of an action",
        )
    return Bounds(least, most, block)


def _moments(pictures: Pictures, where: str) -> Tensor:
    """uint8 [T, H, W, 3]."""
    shown = pictures if isinstance(pictures, Tensor) else torch.from_numpy(np.asarray(pictures))
    shown = shown[None] if shown.ndim == 3 else shown
    if shown.dtype != torch.uint8 or shown.ndim != 4 or shown.shape[-1] != 3 or not len(shown):
        raise RequestError(
            f"got {str(shown.dtype).removeprefix('torch.')} {list(shown.shape)}",
            where=where,
            mend="give uint8 [H, W, 3]",
        )
    return shown
