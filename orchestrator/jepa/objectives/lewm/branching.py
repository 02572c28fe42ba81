"""What follows many plans that begin in one past, which is read once for all of them.

`FramePredictor.follow` takes every plan with a past of its own. Attention is causal: keys and
values of the moments before the present one do not depend on what is done next, so they are made
once for each problem. The result is that of `follow`, to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.jepa.objectives.lewm.predictor import FramePredictor
from orchestrator.jepa.predictors.action_conditioning import AdaptiveBlock
from orchestrator.jepa.rope import Rotation, rotation_at
from orchestrator.jepa.transformer import Past

ROWS = 600
"""Plans that are followed at once on a CPU: more than its caches hold is slower."""


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
    before = z.shape[1] - 1
    rotation = rotation_at((before + steps, 1, 1), None, predictor.head_dim, z)
    pasts = [one.repeated(count) for one in _read(predictor, z[:, :-1], past, rotation)]
    told = predictor.action(plans.flatten(0, 1))
    turns = [block.turns(told) for block in _blocks(predictor)]
    now, ahead = z[:, None, -1:].expand(-1, count, -1, -1).flatten(0, 1), []
    for step in range(steps):
        x, place = predictor.embed(now), _part(rotation, before + step, before + step + 1)
        for block, turn, known in zip(_blocks(predictor), turns, pasts, strict=True):
            x = block.further(x, place, turn[:, step : step + 1], known, 1)
        now = predictor.projection(predictor.norm(x))
        ahead.append(now)
    return torch.cat(ahead, 1).view(problems, count, steps, -1)


def _read(predictor: FramePredictor, z: Tensor, done: Tensor, rotation: Rotation) -> list[Past]:
    """Every block's keys and values of the moments [B, n, encoder_dim] before the present one."""
    pasts = [Past() for _ in predictor.blocks]
    moments = z.shape[1]
    if not moments:
        return pasts
    assert predictor.action is not None
    x, told, place = predictor.embed(z), predictor.action(done), _part(rotation, 0, moments)
    seen = torch.ones(moments, moments, dtype=torch.bool, device=z.device).tril()
    for block, known in zip(_blocks(predictor), pasts, strict=True):
        x = block.further(x, place, block.turns(told), known, moments, seen)
    return pasts


def _blocks(predictor: FramePredictor) -> list[AdaptiveBlock]:
    return [block for block in predictor.blocks if isinstance(block, AdaptiveBlock)]


def _part(rotation: Rotation, first: int, stop: int) -> Rotation:
    cos, sin = (each[:, first:stop] for each in rotation)
    return cos, sin
