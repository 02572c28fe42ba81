"""Rotary positions over time, height and width, as V-JEPA 2 trains with (arXiv 2506.09985, 2.1).

Neighbouring channels (2j, 2j+1) of a head are turned as a pair. V-JEPA 2 lays an axis's
frequencies out twice in a row (`tiled`: f0 f1 .. f0 f1 ..), so that the two channels of a pair
turn at different rates; V-JEPA 2.1 lays them out pairwise (`paired`: f0 f0 f1 f1 ..), which is a
rotation. Weights of either need their own.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from orchestrator.job.config.model import Rope

Grid = tuple[int, int, int]
Rotation = tuple[Tensor, Tensor]
"""Cosines and signed sines, both [B or 1, n, 1, 1, head_dim], for q and k of every head."""

ROPE_BASE = 10000.0


def channels_per_axis(head_dim: int) -> int:
    """Channels of a head per axis: the even part of a third; what is left is not rotated."""
    return 2 * (head_dim // 3 // 2)


@functools.lru_cache(maxsize=32)
def rotation_tables(grid: Grid, head_dim: int, device: torch.device, rope: Rope) -> Tensor:
    """Cosines and signed sines of every token of a grid: float32 [2, T*H*W, head_dim]."""
    # A cached tensor must serve training too, whoever asks for it first.
    with torch.inference_mode(False), torch.no_grad():
        width = channels_per_axis(head_dim)
        tokens = torch.arange(grid[0] * grid[1] * grid[2], device=device)
        positions = (
            tokens // (grid[1] * grid[2]),
            tokens // grid[2] % grid[1],
            tokens % grid[2],
        )
        omega = ROPE_BASE ** -(torch.arange(width // 2, device=device) / (width / 2))
        table = torch.zeros(2, len(tokens), head_dim, device=device)
        table[0] = 1.0
        for axis, position in enumerate(positions):
            angle = position[:, None] * omega
            angle = angle.repeat_interleave(2, 1) if rope == "paired" else angle.repeat(1, 2)
            table[0, :, axis * width : (axis + 1) * width] = angle.cos()
            table[1, :, axis * width : (axis + 1) * width] = angle.sin()
        # The sign of the pair's swap, (a, b) -> (-b, a), is folded into the sines.
        table[1, :, 0::2] *= -1
        return table


def rotary_for_tokens(
    grid: Grid, ids: Tensor | None, head_dim: int, like: Tensor, rope: Rope = "tiled"
) -> Rotation:
    """The rotation of the tokens `ids` [B, n] of a grid, or of all of them, in `like`'s dtype.

    Made once per forward and shared by all layers.
    """
    table = rotation_tables(grid, head_dim, like.device, rope).to(like.dtype)
    rows = table.unsqueeze(1) if ids is None else table[:, ids]
    cos, sin = rows[..., None, None, :].unbind(0)
    return cos, sin


def rotate(qk: Tensor, rotation: Rotation) -> Tensor:
    """Rotate queries and keys [B, n, 2, heads, head_dim] to their positions."""
    cos, sin = rotation
    swapped = qk.view(*qk.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return torch.addcmul(qk * cos, swapped, sin)
