"""Signs of collapse in what a model sees: RankMe, LiDAR, and the spread of features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.training.health import effective_rank, eigenvalues

LIDAR_DELTA = 1e-4
"""Added to the within-class covariance, as published."""


@dataclass(frozen=True)
class RankSample:
    """What is kept of a few videos' features."""

    view_means: Tensor
    """float32 [videos, looks, dim]: the mean of each window's tokens; where one window shows the
    whole video, those of its earlier and its later half."""

    tokens: Tensor
    """float32 [n, dim]: a sample of single tokens."""


MAX_SAMPLED_TOKENS = 64


def sample_for_rank(features: Tensor) -> RankSample:
    """What is kept of some videos' features, float32 [videos, windows, tokens, dim]."""
    flat = features.reshape(-1, features.shape[-1])
    looks = features.unbind(1)
    if len(looks) == 1:
        looks = looks[0].tensor_split(2, dim=1)
    means = torch.stack([look.mean(1) for look in looks], 1)
    return RankSample(
        means, flat[:: max(1, len(flat) // MAX_SAMPLED_TOKENS)][:MAX_SAMPLED_TOKENS].clone()
    )


def lidar(features: Tensor) -> float:
    """Effective rank of a linear discriminant over classes (arXiv 2312.04000, equation 1).

    Args:
        features: float [classes, samples, dim], two samples or more; here a video is a class, and
            what is seen of it by different looks are its samples. NaN where they are not finite.
    """
    x = features.double()
    center = x.mean(1)
    between = _covariance(center - center.mean(0))
    within = _covariance((x - center[:, None]).flatten(0, 1))
    within = within + LIDAR_DELTA * torch.eye(len(within), dtype=torch.float64)
    if not within.isfinite().all():
        return math.nan
    try:
        values, vectors = torch.linalg.eigh(within)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return math.nan
    root = vectors @ torch.diag(values.clamp_min(1e-12).rsqrt()) @ vectors.T
    return effective_rank(eigenvalues(root @ between @ root).clamp_min(0))


def _covariance(rows: Tensor) -> Tensor:
    return rows.T @ rows / max(1, len(rows) - 1)
