"""`bench plan`: everybody decides for the same model, and the loops of the reference are one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.bench.planning import bench_planning, load_or_make_model
from orchestrator.bench.planning_contenders import FullWindowRollout, PlanningSetup, reference_cem
from orchestrator.planning.stable_worldmodel import StableWorldModelAdapter


def test_ratios_are_of_the_same_work_and_rollouts_agree() -> None:
    model = load_or_make_model(None)
    found = bench_planning(model, candidates=12, iterations=2, horizon=3, problems=2, rounds=2)
    assert set(found["ours_over"]) >= {"ours, one by one", "reference", "its solver, our rollout"}
    rates = found["decisions_per_s"]
    assert rates["ours"] > 0
    assert found["single_ms"] == pytest.approx(1000 / rates["ours, one by one"])
    pictures = np.random.default_rng(0).integers(0, 256, (2, 2, 1, 64, 64, 3), np.uint8)
    shown, goals = torch.from_numpy(pictures)
    for horizon in (3, 9):  # nine moments are more than the model reads at once
        setting = PlanningSetup(model, shown, goals, 12, 2, horizon)
        plans = [
            reference_cem(setting, kind(model), 4)
            for kind in (FullWindowRollout, StableWorldModelAdapter)
        ]
        torch.testing.assert_close(*plans)
