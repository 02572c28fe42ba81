"""Draws: a function of seed, number and what is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.tuning.sampling import check_sampled_trials, importances, sample_point
from orchestrator.tuning.trial_store import TrialRecord
from tests.support.sweeps import tune_job


def known(job_lr: list[float], best: float) -> list[TrialRecord]:
    """Trials whose objective falls with the distance of log lr from `best`."""
    import math

    entries = []
    for number, lr in enumerate(job_lr):
        value = -abs(math.log10(lr) - math.log10(best))
        row = {"steps": 20, "objective": value, "loss": None, "shut": []}
        entries.append(TrialRecord(number, {"optim.lr": lr, "objective.ema": 0.99}, "done", [row]))
    return entries


def test_a_draw_depends_on_nothing_but_seed_and_number(tmp_path: Path) -> None:
    job = tune_job(tmp_path, trials=8)
    points = [sample_point(job, number, []) for number in range(8)]
    assert points[::-1] == [sample_point(job, number, []) for number in reversed(range(8))]
    assert len({point["optim.lr"] for point in points}) == 8
    assert all(1e-4 <= point["optim.lr"] <= 1e-2 for point in points)
    assert {point["objective.ema"] for point in points} <= {0.9, 0.99, 0.0}
    assert points != [
        sample_point(job.model_copy(update={"seed": 1}), number, []) for number in range(8)
    ]


def test_first_points_come_first_and_are_completed(tmp_path: Path) -> None:
    job = tune_job(tmp_path, first=[{"optim.lr": 0.005}, {"objective.ema": 0.0, "optim.lr": 1e-4}])
    assert sample_point(job, 0, [])["optim.lr"] == 0.005
    assert sample_point(job, 0, [])["objective.ema"] in (0.9, 0.99, 0.0)
    assert sample_point(job, 1, []) == {"optim.lr": 1e-4, "objective.ema": 0.0}


def test_tpe_learns_and_is_told_again_the_same(tmp_path: Path) -> None:
    job = tune_job(tmp_path, search="tpe", trials=40)
    tried = [sample_point(job, number, [])["optim.lr"] for number in range(20)]
    told = known(tried, best=0.004)
    points = [sample_point(job, number, told)["optim.lr"] for number in range(20, 40)]
    assert points == [sample_point(job, number, told)["optim.lr"] for number in range(20, 40)]
    near = sum(0.002 < lr < 0.008 for lr in points)
    by_chance = sum(0.002 < sample_point(job, n, [])["optim.lr"] < 0.008 for n in range(20, 40))
    assert near > by_chance
    assert near >= 12, "a draw without knowledge is there 3 times in 10"


def test_tpe_keeps_away_from_what_collapsed(tmp_path: Path) -> None:
    job = tune_job(tmp_path, search="tpe", trials=60)
    tried = [sample_point(job, number, [])["optim.lr"] for number in range(24)]
    told = [
        entry if entry.point["optim.lr"] < 1e-3 else replace(entry, state="collapsed", rungs=[])
        for entry in known(tried, best=3e-4)
    ]
    points = [sample_point(job, number, told)["optim.lr"] for number in range(24, 44)]
    assert sum(lr < 1e-3 for lr in points) >= 16, "half of the space, by its logarithm"


def test_importance_names_the_key_that_decides(tmp_path: Path) -> None:
    job = tune_job(tmp_path, trials=24)
    points = [sample_point(job, number, []) for number in range(24)]
    entries = [
        replace(entry, point=point)
        for entry, point in zip(known([p["optim.lr"] for p in points], 1e-2), points, strict=True)
    ]
    found = importances(job, entries)
    assert next(iter(found)) == "optim.lr"
    assert sum(found.values()) == pytest.approx(1)
    assert importances(job, entries[:3]) == {}


def test_values_that_do_not_go_together_are_found_before_the_first_trial(tmp_path: Path) -> None:
    space = {"data.size": {"choice": [32, 48]}, "model.patch": {"choice": [16, 8, 32]}}
    with pytest.raises(RequestError, match=r"trial \d+ cannot be trained: data.size: 48 does not"):
        check_sampled_trials(tune_job(tmp_path, space=space, search="grid", trials=6, seed=3))
    check_sampled_trials(tune_job(tmp_path))
