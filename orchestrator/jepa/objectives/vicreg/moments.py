"""Variance and covariance terms of VICReg (arXiv 2105.04906, section 4), however a batch is dealt.

Both depend on a set of samples only through its mean m and its covariance

    C = 1 / (n - 1) * sum over samples of (x - m)(x - m)^T,

which follow from the sums of x and of x x^T. These are added up over all ranks and micro-batches
(`ClipSets`), in float64: a difference of two sums would lose a small variance beside a large mean.
With m, C and the derivative F of the terms in C as constants, the loss of a clip b is

    f(C) + <F, C_b - C>,    C_b = n / (n - 1) * mean over the clip's samples of (x - m)(x - m)^T.

Over a set, the mean of C_b is C, and that of x - m is 0: so the mean of the losses is f(C), and
their gradient is that of f(C), as one forward over the whole set would give it.

Everywhere below, x is float32 [B, S, G, D]: S samples of each of B clips in each of G groups. A
group has statistics of its own; the terms are means over groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class TermWeights(NamedTuple):
    """What the terms are weighed by."""

    variance: float
    covariance: float
    margin: float
    epsilon: float


def moment_sums(x: Tensor, mean_weight: Tensor) -> Tensor:
    """What these clips add to the mean of x x^T and, in the last column, of x of each set.

    Args:
        x: [B, S, G, D].
        mean_weight: float32 [sets, B], a clip's share in its set's mean.

    Returns:
        float64 [sets, G, D, D + 1].
    """
    samples = x.shape[1]
    rows = x.double().permute(2, 0, 1, 3).flatten(1, 2)  # [G, B * S, D]
    with_one = F.pad(rows, (0, 1), value=1.0)
    share = (mean_weight.double() / samples).repeat_interleave(samples, 1)[..., None]
    return torch.stack([(rows * each).transpose(1, 2) @ with_one for each in share])


def mean_and_covariance(moments: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Of each set and group: float64 [sets, G, D] and [sets, G, D, D].

    Args:
        moments: `moment_sums` over all clips of each set.
        samples: how many samples a group of each set has, [sets].
    """
    mean = moments[..., -1]
    centred = moments[..., :-1] - mean[..., :, None] * mean[..., None, :]
    return mean, centred * _bessel(samples.double())[:, None, None, None]


def terms_and_slope(covariance: Tensor, weights: TermWeights) -> tuple[Tensor, Tensor]:
    """The weighed terms of each set, [sets], and their derivative in C, [sets, G, D, D].

    variance: mean over D of max(0, margin - sqrt(C_dd + epsilon));
    covariance: mean over the D (D - 1) places off the diagonal of C_ij^2.
    """
    groups, dim = covariance.shape[1:3]
    spread = (covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0) + weights.epsilon).sqrt()
    short = (weights.margin - spread).clamp_min(0)
    off = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    pairs = max(1, dim * (dim - 1))
    value = weights.variance * short.mean((1, 2))
    value = value + weights.covariance * off.square().sum((1, 2, 3)) / (pairs * groups)
    rise = -weights.variance * (short > 0) / (2 * spread * dim * groups)
    slope = torch.diag_embed(rise) + 2 * weights.covariance * off / (pairs * groups)
    return value, slope


def per_clip_terms(
    x: Tensor, moments: Tensor, clips: Tensor, set_index: Tensor, weights: TermWeights
) -> Tensor:
    """One loss per clip, float32 [B]: over a set, their mean and gradient are those of the terms.

    Args:
        x: [B, S, G, D], with a graph.
        moments: over all clips of each set; constants.
        clips: how many clips each set has, [sets].
        set_index: int64 [B], the set of each clip.
        weights: of the terms.
    """
    samples = clips * x.shape[1]
    mean, covariance = mean_and_covariance(moments, samples)
    value, slope = terms_and_slope(covariance, weights)
    rest = (value - (slope * covariance).sum((1, 2, 3))).float()
    centred = (x - mean.float()[set_index][:, None]).permute(2, 0, 1, 3)  # [G, B, S, D]
    pull = torch.zeros_like(rest)[set_index]
    for number, scaled in enumerate((slope * _bessel(samples)[:, None, None, None]).float()):
        turned = centred.flatten(1, 2) @ scaled
        own = (turned.view_as(centred) * centred).sum((0, 3)).mean(1)
        pull = pull + torch.where(set_index == number, own, 0.0)
    return rest[set_index] + pull


def _bessel(samples: Tensor) -> Tensor:
    """n / (n - 1), which makes a mean of squares the unbiased estimate; 1 of one sample."""
    return samples / (samples - 1).clamp_min(1)
