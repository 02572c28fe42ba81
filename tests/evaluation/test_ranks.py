"""LiDAR against its definition in NumPy, and what it says of features that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.evaluation.measures.feature_rank import LIDAR_DELTA, lidar, sample_for_rank


def by_definition(features: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues of inverse(within) times between."""
    centers = features.mean(1)
    between = np.cov(centers.T)
    apart = (features - centers[:, None]).reshape(-1, features.shape[-1])
    within = apart.T @ apart / (len(apart) - 1) + LIDAR_DELTA * np.eye(features.shape[-1])
    values = np.linalg.eigvals(np.linalg.solve(within, between)).real.clip(0)
    share = values / values.sum() + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def test_it_is_the_published_number() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(30, 1, 8)) * np.arange(1, 9) + 0.3 * draw.normal(size=(30, 5, 8))
    assert lidar(torch.from_numpy(features)) == pytest.approx(by_definition(features), rel=1e-6)


def test_what_tells_videos_apart_counts_and_nothing_else() -> None:
    draw = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(64, 4, 16, generator=draw)
    one, all_of_them = torch.zeros(64, 1, 16), torch.randn(64, 1, 16, generator=draw)
    one[:, 0, 0] = torch.randn(64, generator=draw)
    assert lidar(one + noise) < 2
    assert lidar(all_of_them + noise) > 10


@pytest.mark.parametrize("windows", [1, 2])
def test_a_video_has_two_looks_at_least(windows: int) -> None:
    features = torch.randn(3, windows, 8, 6, generator=torch.Generator().manual_seed(1))
    means = sample_for_rank(features).view_means
    assert means.shape == (3, 2, 6)
    first = features[:, 0, :4].mean(1) if windows == 1 else features[:, 0].mean(1)
    torch.testing.assert_close(means[:, 0], first)
