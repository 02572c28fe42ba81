"""Numbers of a training that diverged: never an exception, and one line that says what happened."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_rollback import Heard, diverging_job

from orchestrator.errors import JobFailed
from orchestrator.evaluation.measures.feature_rank import lidar
from orchestrator.evaluation.measures.ridge import ridge_probe
from orchestrator.jepa.visualization import feature_pca
from orchestrator.job import VJEPA2, build_job, job_dict
from orchestrator.runner import run
from orchestrator.tracking.metrics import to_mlflow_metrics
from orchestrator.training import health

NAN, INF, HUGE = math.nan, math.inf, 3e38


def filled(shape: tuple[int, ...], *values: float) -> torch.Tensor:
    """Random features with these values among them."""
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    for i, value in enumerate(values):
        features.view(-1)[7 * i] = value
    return features


@pytest.mark.parametrize("shape", [(2, 8, 4), (1, 1, 16), (2, 3, 16), (1, 6000, 3)])
@pytest.mark.parametrize("values", [(NAN,), (INF,), (-INF,), (INF, -INF, NAN)])
@pytest.mark.parametrize("number", [health.feature_std, health.rankme, health.token_cosine])
def test_features_that_are_not_finite_have_no_numbers(
    number: Any, values: tuple[float, ...], shape: tuple[int, ...]
) -> None:
    assert math.isnan(number(filled(shape, *values)))


@pytest.mark.parametrize(
    "features",
    [
        torch.zeros(2, 8, 4),
        torch.ones(2, 8, 4),
        filled((1, 1, 6)),
        filled((2, 8, 4)) * 1e30,
        filled((2, 8, 4)) * 1e-38,
        filled((2, 8, 4)).bfloat16(),
        torch.full((2, 8, 4), HUGE),
    ],
    ids=["zeros", "ones", "one row", "huge", "tiny", "bf16", "largest"],
)
def test_all_other_features_have_numbers(features: torch.Tensor) -> None:
    found = [f(features) for f in (health.feature_std, health.rankme, health.token_cosine)]
    assert all(map(math.isfinite, found))


def test_a_scale_that_overflows_float32_changes_no_rank() -> None:
    features = filled((2, 64, 8))
    assert health.rankme(features * 1e30) == pytest.approx(health.rankme(features), rel=1e-4)


@pytest.mark.parametrize("values", [(NAN,), (INF,), (-INF, INF)])
def test_lidar_of_features_that_are_not_finite(values: tuple[float, ...]) -> None:
    assert math.isnan(lidar(filled((4, 3, 5), *values)))


@pytest.mark.parametrize("scale", [0.0, 1e30, 1e-30])
def test_lidar_of_any_finite_features_is_finite(scale: float) -> None:
    assert math.isfinite(lidar(filled((4, 3, 5)) * scale))


def test_what_blew_up_is_told_and_is_no_collapse() -> None:
    values = {"rankme": NAN, "feature_std": NAN, "token_cosine": NAN}
    told = health.collapse_warning(values, objective=VJEPA2(), lr=1e8, momentum=0.9)
    assert told is not None
    assert told.startswith(health.NOT_FINITE_MESSAGE)
    assert "optim.lr" in told
    assert health.COLLAPSE_MESSAGE not in told


def test_huge_features_have_a_picture() -> None:
    clip = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    strip, frames = feature_pca(clip, filled((16, 8)) * 1e30, (1, 4, 4))
    assert np.asarray(strip).std() > 0
    assert len(frames) == 2


def test_mlflow_gets_finite_numbers_only() -> None:
    rows = to_mlflow_metrics({"a": 1.0, "b": NAN, "c": INF, "d": -INF, "e": 0.0}, 5, 3, "m")
    assert [(row.key, row.value, row.step, row.model_id) for row in rows] == [
        ("a", 1.0, 3, "m"),
        ("e", 0.0, 3, "m"),
    ]


@pytest.mark.parametrize("rows", [6, 40], ids=["svd", "eigh"])
def test_nothing_is_read_off_features_that_are_not_finite(rows: int) -> None:
    x, y = filled((rows, 8), NAN).numpy(), np.arange(float(rows))[:, None]
    with pytest.raises(JobFailed, match="features are not finite in 1 of"):
        ridge_probe(x, y, np.arange(rows), x[:2], y[:2])


def blown_up_job(folder: Path, lr: float, steps: int) -> Any:
    data = job_dict(diverging_job(folder, last=0))
    data["objective"] = {"kind": "vjepa2", "ema": 0.9, "masks": data["objective"]["masks"]}
    data["optim"] = {"steps": steps, "lr": lr, "warmup": 1}
    data["track"] = {"every": 1, "pictures": 3}
    return build_job(data)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("lr", "steps", "says"),
    [
        (1e8, 40, "10 steps in a row could not be applied"),
        (1e30, 40, "10 steps in a row could not be applied"),
        (1e8, 6, "the features of the last step are not finite"),
    ],
)
def test_a_learning_rate_that_is_far_too_large_ends_with_one_line(
    tmp_path: Path, lr: float, steps: int, says: str
) -> None:
    heard = Heard()
    with pytest.raises(JobFailed, match=says) as caught:
        run(blown_up_job(tmp_path, lr, steps), local=True, progress=heard)
    assert "did not help" in str(caught.value)
    assert "optim.lr" in str(caught.value)
    assert any(health.NOT_FINITE_MESSAGE in line for line in heard.lines)
