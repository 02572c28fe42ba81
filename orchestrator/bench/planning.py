"""Planning speed: our solver compared with a loop written as stable-worldmodel's solver.

The same model, observations, goals, candidates, iterations and cores; they take turns in one
process, so that what else the machine does weighs on both alike.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.bench.planning_contenders import (
    NUM_ELITES,
    FullWindowRollout,
    PlanningContender,
    PlanningSetup,
    reference_cem,
    stable_worldmodel_solver,
)
from orchestrator.errors import RequestError
from orchestrator.jepa.action_conditioned import ActionConditionedModel
from orchestrator.jepa.model_files import ModelConfig, randomly_initialized_model
from orchestrator.jepa.objectives.lewm.predictor import LeWMPredictor
from orchestrator.jepa.predictors.action_conditioning import AdaLNZeroBlock
from orchestrator.job import TrainJob, build_job, require_kind
from orchestrator.job.config.planning import CEM
from orchestrator.planning.build import build_solver
from orchestrator.planning.goal_cost import GoalDistance, PlanningContext, goal_cost
from orchestrator.planning.stable_worldmodel import StableWorldModelAdapter
from orchestrator.tracking.registry import load_model

SMALL: dict[str, Any] = {
    "kind": "train",
    "name": "small",
    "data": {
        "source": "world://two-rooms",
        "frames": 8,
        "fps": 2.0,
        "size": 64,
        "act": {"block": 5, "statistics": {"action_mean": [0, 0], "action_std": [0.6, 0.6]}},
    },
    "model": {
        "encoder": {"dim": 96, "depth": 4, "heads": 3, "attention": "moment"},
        "predictor": {"dim": 96, "depth": 4, "heads": 3},
        "patch": 8,
        "tubelet": 1,
    },
    "objective": {"kind": "lewm", "hidden": 256},
    "optim": {"steps": 1},
}
"""A LeWorldModel of about the size that learns Two Rooms."""


def load_or_make_model(uri: str | None) -> ActionConditionedModel:
    """Load the named model, or make a small untrained one.

    Raises:
        RequestError: there is none, or it does not act.
    """
    if uri is None:
        return _randomly_initialized()
    model = load_model(uri)
    if not isinstance(model, ActionConditionedModel):
        raise RequestError(
            f"{uri} was trained without actions: there is nothing to plan",
            where="bench plan",
            hint="name a model whose job has data.actions",
        )
    return model


def _randomly_initialized() -> ActionConditionedModel:
    job = require_kind(build_job(SMALL), TrainJob)
    config = ModelConfig.from_job(job)
    model = randomly_initialized_model(config, 0)
    assert isinstance(model, ActionConditionedModel)
    assert isinstance(model.predictor, LeWMPredictor)
    draws = torch.Generator().manual_seed(0)
    for block in model.predictor.blocks:  # gates as training leaves them: closed ones do nothing
        assert isinstance(block, AdaLNZeroBlock)
        torch.nn.init.normal_(block.modulation.weight, std=0.1, generator=draws)
    return model


def bench_planning(
    model: ActionConditionedModel,
    *,
    candidates: int = 300,
    iterations: int = 30,
    horizon: int = 5,
    problems: int = 8,
    rounds: int = 5,
) -> dict[str, Any]:
    """Decisions a second of each, seconds of a single one, and what their plans cost.

    A ratio is ours over theirs in decisions a second, round by round, and its median.

    Args:
        candidates, iterations: of the cross-entropy method; stable-worldmodel's own are 300 and 30.
        problems: observations that are decided for in a round.
    """
    size = model.clip.size
    pictures = np.random.default_rng(0).integers(0, 256, (2, problems, 1, size, size, 3), np.uint8)
    shown, goals = torch.from_numpy(pictures)
    setting = PlanningSetup(model, shown, goals, candidates, iterations, horizon)
    contenders: dict[str, PlanningContender] = {
        "ours": solve_batched,
        "ours, one by one": solve_one_by_one,
        "reference": lambda given, seed: reference_cem(given, FullWindowRollout(given.model), seed),
        "its solver, our rollout": lambda given, seed: reference_cem(
            given, StableWorldModelAdapter(given.model), seed
        ),
    }
    theirs = stable_worldmodel_solver()
    if theirs is not None:
        contenders["stable-worldmodel"] = theirs
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(1 + rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            plans = contenders[name](setting, turn)
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
                costs[name].append(mean_plan_cost(setting, plans))
    return _summarize(setting, seconds, costs)


def _summarize(
    setting: PlanningSetup, seconds: dict[str, list[float]], costs: dict[str, list[float]]
) -> dict[str, Any]:
    problems = len(setting.goals)
    result: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in setting.model.parameters()),
        "candidates": setting.candidates,
        "iterations": setting.iterations,
        "horizon": setting.horizon,
        "problems": problems,
        "rounds": len(seconds["ours"]),
        "decisions_per_s": {who: problems / statistics.median(t) for who, t in seconds.items()},
        "cost": {who: statistics.mean(each) for who, each in costs.items()},
        "single_ms": 1000 * statistics.median(seconds["ours, one by one"]) / problems,
        "peer": "stable-worldmodel" in seconds,
    }
    result["ours_over"] = {
        who: statistics.median([a / b for a, b in zip(times, seconds["ours"], strict=True)])
        for who, times in seconds.items()
        if who != "ours"
    }
    return result


def solve_batched(setting: PlanningSetup, seed: int) -> Tensor:
    """Our solver, all problems in one batch."""
    return _ours(setting, setting.observations, setting.goals, seed)


def solve_one_by_one(setting: PlanningSetup, seed: int) -> Tensor:
    """Our solver, one problem at a time: the latency for a single robot."""
    pairs = zip(setting.observations, setting.goals, strict=True)
    return torch.cat([_ours(setting, a[None], b[None], seed) for a, b in pairs])


@torch.inference_mode()
def _ours(setting: PlanningSetup, shown: Tensor, goals: Tensor, seed: int) -> Tensor:
    model, bounds = setting.model, setting.bounds
    solver = CEM(
        candidates=setting.candidates,
        iterations=setting.iterations,
        elites=min(NUM_ELITES, setting.candidates),
        reused_elites=min(NUM_ELITES, setting.candidates) // 3,
    )
    z, aim = model.encode(shown)[:, None], model.encode(goals)
    width = len(bounds.low)
    known = PlanningContext(z, z.new_zeros(len(z), 0, width))
    start = z.new_zeros(len(z), setting.horizon, width)
    cost, draws = goal_cost(model, known, aim, GoalDistance()), torch.Generator().manual_seed(seed)
    return build_solver(solver).solve(cost, start, bounds, draws).actions


@torch.inference_mode()
def mean_plan_cost(setting: PlanningSetup, plans: Tensor) -> float:
    """Mean predicted cost of the plans, clipped to the bounds."""
    bounds, model = setting.bounds, setting.model
    inside = plans.clamp(bounds.low, bounds.high)
    ahead = model.predict(model.encode(setting.observations), inside)
    area = model.clip.tokens_per_timestep
    return float((ahead[:, -area:] - model.encode(setting.goals)).square().mean())
