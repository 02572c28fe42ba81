"""Signs of collapse in what a model sees: RankMe, LiDAR, and the spread of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.evaluation.surprise import Windows
from orchestrator.jepa.hub import WorldModel

DELTA = 1e-4
"""Added to the within-class covariance, as published."""


@dataclass(frozen=True)
class Ranks:
    """What is kept of a few videos' features."""

    means: Tensor
    """float32 [videos, windows, dim]: the mean of each window's tokens."""

    tokens: Tensor
    """float32 [n, dim]: a sample of single tokens."""


TOKENS = 64


def ranks_of(model: WorldModel, videos: np.ndarray, windows: Windows) -> Ranks:
    """What is kept of some possible videos, uint8 [videos, frames, size, size, 3]."""
    clips = np.stack([videos[:, s : s + windows.length] for s in windows.starts], axis=1)
    features = model.encode(clips.reshape(-1, *clips.shape[2:]))
    means = features.mean(1).view(len(videos), len(windows.starts), -1)
    flat = features.reshape(-1, features.shape[-1])
    return Ranks(means, flat[:: max(1, len(flat) // TOKENS)][:TOKENS].clone())


def lidar(features: Tensor) -> float:
    """Effective rank of a linear discriminant over classes (arXiv 2312.04000, equation 1).

    Args:
        features: float [classes, samples, dim]; here a video is a class, its windows samples.
    """
    x = features.double()
    center = x.mean(1)
    between = _covariance(center - center.mean(0))
    within = _covariance((x - center[:, None]).flatten(0, 1))
    within = within + DELTA * torch.eye(len(within), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values.clamp_min(1e-12).rsqrt()) @ vectors.T
    spectrum = torch.linalg.eigvalsh(root @ between @ root).clamp_min(0)
    share = spectrum / spectrum.sum().clamp_min(1e-30) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def _covariance(rows: Tensor) -> Tensor:
    return rows.T @ rows / max(1, len(rows) - 1)
