"""Noise for candidates: half correlated in time, half white."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def candidate_noise(
    shape: tuple[int, int, int, int],
    frameskip: int,
    correlation: float,
    generator: torch.Generator,
) -> Tensor:
    """Sample standard normal noise [B, N, H, D]; half of the N samples are correlated in time.

    Smooth candidates get far, rough ones find what is fine: measured on Two Rooms and on
    quadratics, both together are better than either, and than smooth first and rough later.

    Args:
        frameskip: control steps that lie side by side in D.
        correlation: of neighbouring control steps; of those further apart, its powers.
    """
    rows, count, steps, width = shape
    times, each, smooth = steps * frameskip, width // frameskip, (count + 1) // 2
    # Time first, so that one product with a small matrix does it for all.
    noise = torch.randn(times, count, rows * each, generator=generator, device=generator.device)
    if correlation > 0:
        mixed = _ar1_cholesky(times, correlation).to(noise.device) @ noise[:, :smooth].flatten(1)
        noise[:, :smooth] = mixed.view(times, smooth, -1)
    return noise.view(times, count, rows, each).permute(2, 1, 0, 3).reshape(shape)


@lru_cache(maxsize=32)
def _ar1_cholesky(times: int, correlation: float) -> Tensor:
    """The matrix that gives independent numbers the covariance correlation^|i - j|."""
    apart = torch.arange(times, dtype=torch.float64)
    covariance = correlation ** (apart[:, None] - apart[None]).abs()
    root: Tensor = torch.linalg.cholesky(covariance)
    return root.float()
