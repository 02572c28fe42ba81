"""SIGReg: how far features are from N(0, I), by random slices (arXiv 2511.08544, section 4).

A slice is a unit direction. Along it the n features of a set are compared with N(0, 1) by the
statistic of Epps and Pulley,

    T = n * integral of |C(t) + i S(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

with C and S the means of cos(t x) and sin(t x) over the set. The integrand is even: the trapezoid
rule on [0, 3] counts double. T is no mean over clips, but its gradient is known from C and S
alone: once they are summed over all ranks and micro-batches, every clip has a loss of its own
(`per_clip_losses`) whose mean is T and whose gradient is T's.

Everywhere below, x is float32 [B, M]: B clips, and M = positions * slices projections of each.
Each of them is one set of features across clips, as LeJEPA treats each view of an image.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

NUM_KNOTS, T_MAX = 17, 3.0


def quadrature_knots() -> list[tuple[float, float, float]]:
    """(t, exp(-t^2 / 2), weight) of the trapezoid rule over [-3, 3], for t > 0.

    At t = 0 both sides are 1: that knot adds nothing.
    """
    step = T_MAX / (NUM_KNOTS - 1)
    rows = []
    for number in range(1, NUM_KNOTS):
        t = number * step
        normal = math.exp(-t * t / 2)
        share = step / 2 if number == NUM_KNOTS - 1 else step
        rows.append((t, normal, 2 * share * normal))
    return rows


def random_slices(dim: int, count: int, seed: int, device: torch.device) -> Tensor:
    """Directions drawn evenly from the sphere: float32 [dim, count], the same on every device."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(dim, count, generator=draw, dtype=torch.float64)
    unit: Tensor = directions / directions.norm(dim=0)
    return unit.float().to(device)


def characteristic_sums(x: Tensor, mean_weight: Tensor) -> Tensor:
    """What these clips add to C and S of each set: float32 [knots, 2, sets, M].

    Args:
        x: [B, M].
        mean_weight: [sets, B], a clip's share in its set's mean.
    """
    out = x.new_empty(NUM_KNOTS - 1, 2, len(mean_weight), x.shape[1])
    for row, (t, _, _) in zip(out, quadrature_knots(), strict=True):
        torch.mm(mean_weight, torch.cos(t * x), out=row[0])
        torch.mm(mean_weight, torch.sin(t * x), out=row[1])
    return out


def epps_pulley(means: Tensor, clips: Tensor) -> Tensor:
    """T of each set, averaged over projections: float32 [sets].

    Args:
        means: C and S, [knots, 2, sets, M].
        clips: how many clips each set has, [sets].
    """
    total = torch.zeros_like(clips)
    for (cos, sin), (_, normal, weight) in zip(means, quadrature_knots(), strict=True):
        total = total + weight * ((cos - normal).square() + sin.square()).mean(1)
    return clips * total


def per_clip_losses(x: Tensor, means: Tensor, clips: Tensor, set_index: Tensor) -> Tensor:
    """One loss per clip, [B]: over a set, their mean is T and its gradient is T's.

    Args:
        x: [B, M], with a graph.
        means: C and S over all clips of each set, [knots, 2, sets, M]; constants.
        clips: how many clips each set has, [sets].
        set_index: int64 [B], the set of each clip.
    """
    pull: Tensor = _CharacteristicFunctionLoss.apply(x, means, set_index)  # type: ignore[no-untyped-call]
    rest = torch.zeros_like(clips)
    for (cos, sin), (_, normal, weight) in zip(means, quadrature_knots(), strict=True):
        rest = rest + weight * (normal**2 - cos.square() - sin.square()).mean(1)
    return clips[set_index] * (pull + rest[set_index])


class _CharacteristicFunctionLoss(torch.autograd.Function):
    """sum over knots of 2 w ((C - normal) cos(t x) + S sin(t x)), averaged over projections.

    Its derivative is made on the way: of all knots nothing is kept but one slope.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, means: Tensor, member: Tensor) -> Tensor:
        value, slope = x.new_zeros(len(x)), torch.zeros_like(x)
        for (cos_mean, sin_mean), (t, normal, weight) in zip(
            means, quadrature_knots(), strict=True
        ):
            cos, sin = torch.cos(t * x), torch.sin(t * x)
            off, turn = (cos_mean - normal)[member], sin_mean[member]
            value += 2 * weight * (off * cos + turn * sin).mean(1)
            slope += (2 * weight * t / x.shape[1]) * (turn * cos - off * sin)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad[:, None] * slope, None, None
