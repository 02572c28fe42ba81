"""What follows many plans that begin in one past, every token computed once.

`FramePredictor.follow` reads all moments again for each one that it predicts. Its attention is
causal, so keys and values of earlier moments stay what they are while nothing leaves the window:
they are kept here, and those of the shared past are made once for all plans. The result is that of
`follow`, to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.jepa.actions import AdaptiveBlock
from orchestrator.jepa.frames import FramePredictor
from orchestrator.jepa.rope import Rotation, rotate, rotation_at

ROWS = 512
"""Plans that are followed at once on a CPU: more than its caches hold is slower."""

Kept = tuple[Tensor, Tensor]
"""A block's keys and values, [rows, heads, moments, head_dim] each."""


def branch(predictor: FramePredictor, z: Tensor, past: Tensor, plans: Tensor) -> Tensor:
    """What follows each plan, moment by moment.

    Args:
        z: embeddings of the h moments so far, [B, h, encoder_dim].
        past: what was done between them, [B, h - 1, D].
        plans: what is done next, [B, N, H, D].

    Returns:
        [B, N, H, encoder_dim]; h + H - 1 must not be more than the predictor reads at once.
    """
    count = plans.shape[1]
    if z.device.type != "cpu":
        return _branch(predictor, z, past, plans)
    rows, size = [], max(1, ROWS // count)
    for first in range(0, len(z), size):
        some = slice(first, first + size)
        parts = torch.split(plans[some], ROWS, 1)
        rows.append(torch.cat([_branch(predictor, z[some], past[some], one) for one in parts], 1))
    return torch.cat(rows)


def _branch(predictor: FramePredictor, z: Tensor, past: Tensor, plans: Tensor) -> Tensor:
    assert predictor.action is not None
    problems, count, steps, _ = plans.shape
    seen = z.shape[1]
    x = predictor.embed(z)
    rotation = rotation_at((seen + steps, 1, 1), None, predictor.head_dim, x)
    kept = _past(predictor, x[:, :-1], predictor.action(past), _part(rotation, 0, seen - 1))
    kept = [(_each(k, count), _each(v, count)) for k, v in kept]
    told = predictor.action(plans.flatten(0, 1))
    now, ahead = _each(x[:, -1:], count), []
    for step in range(steps):
        here = _part(rotation, seen - 1 + step, seen + step)
        for number, block in enumerate(predictor.blocks):
            assert isinstance(block, AdaptiveBlock)
            now, kept[number] = _through(block, now, told[:, step : step + 1], here, kept[number])
        follows = predictor.projection(predictor.norm(now))
        ahead.append(follows)
        now = predictor.embed(follows)
    return torch.cat(ahead, 1).view(problems, count, steps, -1)


def _past(predictor: FramePredictor, x: Tensor, told: Tensor, rotation: Rotation) -> list[Kept]:
    """Keys and values of every block over the moments before the present one."""
    kept = []
    for block in predictor.blocks:
        assert isinstance(block, AdaptiveBlock)
        nothing = x.new_zeros(len(x), block.attn.heads, 0, predictor.head_dim)
        found = nothing, nothing
        if x.shape[1]:
            x, found = _through(block, x, told, rotation, found)
        kept.append(found)
    return kept


def _through(
    block: AdaptiveBlock, x: Tensor, told: Tensor, rotation: Rotation, kept: Kept
) -> tuple[Tensor, Kept]:
    """A block over new moments [rows, n, dim], n = 1 wherever something is kept."""
    attn = block.attn
    turns = block.modulation(F.silu(told))
    shift1, scale1, gate1, shift2, scale2, gate2 = turns.chunk(6, dim=-1)
    qkv = attn.qkv(torch.addcmul(shift1, block.norm1(x), 1 + scale1))
    qk, v = qkv.split([2 * x.shape[-1], x.shape[-1]], dim=-1)
    q, k = rotate(qk.view(*x.shape[:2], 2, attn.heads, -1), rotation).transpose(1, 3).unbind(2)
    v = v.view(*x.shape[:2], attn.heads, -1).transpose(1, 2)
    kept = torch.cat([kept[0], k], 2), torch.cat([kept[1], v], 2)
    read = F.scaled_dot_product_attention(q, *kept, is_causal=x.shape[1] > 1)
    x = torch.addcmul(x, gate1, attn.proj(read.transpose(1, 2).flatten(2)))
    inner = torch.addcmul(shift2, block.norm2(x), 1 + scale2)
    return torch.addcmul(x, gate2, block.mlp(inner)), kept


def _part(rotation: Rotation, first: int, stop: int) -> Rotation:
    cos, sin = (each[:, first:stop] for each in rotation)
    return cos, sin


def _each(x: Tensor, count: int) -> Tensor:
    """Once for each plan: [B, ...] -> [B * count, ...]."""
    return x[:, None].expand(-1, count, *x.shape[1:]).flatten(0, 1)
