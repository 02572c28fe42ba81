"""Benches of sweeps: rank correlations, and what is kept is not made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.bench.in_process_training import cached_result
from orchestrator.bench.search_methods import METHODS, bench_search
from orchestrator.bench.tuning_objectives import (
    bench_tuning_objectives,
    spearman,
    spearman_with_interval,
)
from orchestrator.errors import RequestError
from orchestrator.job import TuneJob, build_job
from orchestrator.progress import SilentProgress


def naive_spearman(x: list[float], y: list[float]) -> float:
    def ranks(values: list[float]) -> list[float]:
        return [
            sum(other < one for other in values) + (sum(other == one for other in values) + 1) / 2
            for one in values
        ]

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def test_spearman_is_pearson_of_ranks_and_ties_share_theirs() -> None:
    draw = np.random.default_rng(0)
    for _ in range(5):
        x, y = draw.integers(0, 6, 20).astype(float), draw.normal(size=20)
        assert spearman(x, y) == pytest.approx(naive_spearman(x.tolist(), y.tolist()))
    assert spearman(np.arange(5.0), np.exp(np.arange(5.0))) == pytest.approx(1)
    assert np.isnan(spearman(np.arange(5.0), np.ones(5)))


def test_an_interval_holds_its_value_and_narrows_with_trials() -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=200)
    y = x + draw.normal(size=200)
    few, many = spearman_with_interval(x[:16], y[:16], 0.95), spearman_with_interval(x, y, 0.95)
    for found in (few, many):
        assert found["low"] <= found["value"] <= found["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"value": 0.1}

    assert (
        cached_result(tmp_path, "a", make) == cached_result(tmp_path, "a", make) == {"value": 0.1}
    )
    assert len(made) == 1
    cached_result(None, "a", make)
    assert len(made) == 2


def small(tmp_path: Path, *overrides: str) -> TuneJob:
    job = build_job(
        {
            "kind": "tune",
            "name": "small",
            "storage": str(tmp_path),
            "train": {
                "data": {
                    "source": "physics://drop?clips=8&size=32&fps=8&seconds=2",
                    "frames": 8,
                    "fps": 8.0,
                    "size": 32,
                },
                "model": {
                    "encoder": {"dim": 24, "depth": 1, "heads": 2},
                    "patch": 8,
                    "predictor": {"dim": 12, "depth": 1, "heads": 2},
                },
                "objective": {"kind": "vjepa2", "masks": [{"targets": 0.5, "context": 0.24}]},
                "optim": {"steps": 10},
                "scale": {"global_batch": 4, "micro_batch": 2, "precision": "fp32"},
            },
            "space": {"optim.lr": {"loguniform": [1e-5, 1e-4]}},
            "trials": 2,
            "budget": 10,
            "objective": {"fit": 10, "score": 8},
        },
        list(overrides),
    )
    assert isinstance(job, TuneJob)
    return job


@pytest.mark.integration
def test_trials_are_scored_by_everything_and_searches_take_the_same_steps(tmp_path: Path) -> None:
    found = bench_tuning_objectives(small(tmp_path), 4, 0.9, SilentProgress(), tmp_path / "kept")
    assert len(found["trials"]) == found["compared"] + found["shut"] == 4
    names = {
        "probe",
        "retrieval",
        "only retrieval",
        "only over_copy",
        "log LiDAR",
        "rankme_share",
        "-loss",
    }
    assert names <= set(found["trials"][0]["scores"])
    assert set(found["correlation"]) == set(found["trials"][0]["scores"]) - {"probe"}
    assert (
        bench_tuning_objectives(small(tmp_path), 4, 0.9, SilentProgress(), tmp_path / "kept")
        == found
    )
    with pytest.raises(RequestError, match="another job"):
        bench_tuning_objectives(
            small(tmp_path, "budget=9"), 4, 0.9, SilentProgress(), tmp_path / "kept"
        )

    raced = bench_search(small(tmp_path), 1, SilentProgress())
    assert [row["method"] for row in raced["rows"]] == list(METHODS)
    random, halved = raced["rows"]
    assert (raced["steps"], random["done"], random["pruned"]) == (20, 2, 0)
    assert halved["done"] >= 1
    assert random["best"][0] is None, "no trial ends within a third of the steps of two"
    assert random["best"][-1] is not None
