"""Who `bench plan` races: stable-worldmodel's solver and rollout, written anew and its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from types import SimpleNamespace

import torch
from torch import Tensor

from orchestrator.jepa.action_conditioned import ActionConditionedModel
from orchestrator.planning.base import ActionBounds
from orchestrator.planning.plan_api import action_bounds
from orchestrator.planning.stable_worldmodel import Info, StableWorldModelAdapter

NUM_ELITES = 30
"""Elites, there and here."""


@dataclass(frozen=True)
class PlanningSetup:
    """What everybody is given."""

    model: ActionConditionedModel
    observations: Tensor
    """uint8 [P, 1, H, W, 3]."""

    goals: Tensor
    candidates: int
    iterations: int
    horizon: int

    @property
    def bounds(self) -> ActionBounds:
        """Two standard deviations around the training data's mean."""
        known = self.model.act.statistics
        assert known is not None
        pairs = list(zip(known.action_mean, known.action_std, strict=True))
        sides = [m - 2 * s for m, s in pairs], [m + 2 * s for m, s in pairs]
        return action_bounds(*sides, self.model.block)


PlanningContender = Callable[[PlanningSetup, int], Tensor]
"""Decides for the observations of a round, [P, H, D]; the second is the round's seed."""


class FullWindowRollout(StableWorldModelAdapter):
    """A model of ours with the rollout that stable-worldmodel's models have (`wm/lewm/lewm.py`):
    every moment is predicted from the whole window before it, which is read anew."""

    def rollout(self, info_dict: Info, action_candidates: Tensor) -> Info:
        """`pixels` [B, S, 1, ...] and candidates [B, S, H, D] -> `predicted_emb`."""
        rows, count, steps, _ = action_candidates.shape
        if "area" not in info_dict:
            made = self.encode({"pixels": info_dict["pixels"][:, 0]})
            info_dict["emb"], info_dict["area"] = made["emb"], made["area"]
        area, width = info_dict["area"], info_dict["emb"].shape[-1]
        known = info_dict["emb"][:, None].expand(-1, count, -1, -1).reshape(rows * count, area, -1)
        actions = action_candidates.flatten(0, 1)
        for now in range(1, steps + 1):
            first = max(0, now - self.model.history)
            ahead = self.model.predict(known[:, first * area :], actions[:, first:now])
            known = torch.cat([known, ahead], 1)
        info_dict["predicted_emb"] = known.view(rows, count, steps + 1, width)
        return info_dict


@torch.inference_mode()
def reference_cem(setting: PlanningSetup, costable: StableWorldModelAdapter, seed: int) -> Tensor:
    """The cross-entropy method as stable-worldmodel writes it (`planning/solver/cem.py`).

    One environment at a time; the info dict is spread over the candidates; observation and goal
    are encoded once; mean and deviation of the best, the mean is the plan. Its candidates know no
    bounds.
    """
    draws = torch.Generator().manual_seed(seed)
    count, width = setting.candidates, len(setting.bounds.low)
    plans = []
    for shown, goal in zip(setting.observations, setting.goals, strict=True):
        info = {
            name: each[None, None].expand(1, count, *each.shape)
            for name, each in (("pixels", shown), ("goal", goal))
        }
        mean = torch.zeros(1, setting.horizon, width)
        deviation = torch.ones_like(mean)
        for _ in range(setting.iterations):
            noise = torch.randn(1, count, setting.horizon, width, generator=draws)
            tried = noise * deviation[:, None] + mean[:, None]
            tried[:, 0] = mean
            costs = costable.get_cost(info, tried)
            best = costs.topk(min(NUM_ELITES, count), dim=1, largest=False).indices
            elites = tried[torch.arange(1)[:, None], best]
            mean, deviation = elites.mean(1), elites.std(1)
        plans.append(mean)
    return torch.cat(plans)


def stable_worldmodel_solver() -> PlanningContender | None:
    """stable-worldmodel's own solver with its rollout, where it can be imported; else None."""
    for home in ("stable_worldmodel.planning.solver", "stable_worldmodel.solver"):
        try:
            made_by = importlib.import_module(home).CEMSolver
            break
        except Exception:  # it, or what it imports, is not there or does not fit this torch
            continue
    else:
        return None

    def solve(setting: PlanningSetup, seed: int) -> Tensor:
        from gymnasium.spaces import Box

        problems, block = len(setting.goals), setting.model.block
        width = len(setting.bounds.low) // block
        solver = made_by(
            FullWindowRollout(setting.model),
            num_samples=setting.candidates,
            n_steps=setting.iterations,
            topk=min(NUM_ELITES, setting.candidates),
            seed=seed,
        )
        space = Box(-1, 1, (problems, width))
        config = SimpleNamespace(horizon=setting.horizon, action_block=block)
        solver.configure(action_space=space, n_envs=problems, config=config)
        with redirect_stdout(StringIO()):  # it prints its time
            found = solver.solve({"pixels": setting.observations, "goal": setting.goals})
        actions: Tensor = found["actions"]
        return actions

    return solve
