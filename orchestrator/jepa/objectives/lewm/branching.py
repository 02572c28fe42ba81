"""What follows many plans that begin in one past, which is read once for all of them.

`LeWMPredictor.rollout` takes every plan with a past of its own. Attention is causal: keys and
values of the moments before the present one do not depend on what is done next, so they are made
once for each problem. The result is that of `rollout`, to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.jepa.objectives.lewm.predictor import LeWMPredictor
from orchestrator.jepa.predictors.action_conditioning import AdaLNZeroBlock
from orchestrator.jepa.rope import Rotation, rotary_for_tokens
from orchestrator.jepa.transformer import KVCache

MAX_CPU_PLANS = 600
"""Plans that are followed at once on a CPU: more than its caches hold is slower."""


def rollout_plans(
    predictor: LeWMPredictor, z: Tensor, past_actions: Tensor, action_plans: Tensor
) -> Tensor:
    """What follows each plan, moment by moment.

    Args:
        z: embeddings of the h moments so far, [B, h, encoder_dim].
        past_actions: what was done between them, [B, h - 1, D].
        action_plans: what is done next, [B, N, H, D].

    Returns:
        [B, N, H, encoder_dim]; h + H - 1 must not be more than the predictor reads at once.
    """
    count = action_plans.shape[1]
    if z.device.type != "cpu":
        return _rollout_plans(predictor, z, past_actions, action_plans)
    rows, size = [], max(1, MAX_CPU_PLANS // count)
    for first in range(0, len(z), size):
        some = slice(first, first + size)
        parts = torch.split(action_plans[some], MAX_CPU_PLANS, 1)
        rows.append(
            torch.cat(
                [_rollout_plans(predictor, z[some], past_actions[some], one) for one in parts], 1
            )
        )
    return torch.cat(rows)


def _rollout_plans(predictor: LeWMPredictor, z: Tensor, past: Tensor, plans: Tensor) -> Tensor:
    assert predictor.action is not None
    problems, count, steps, _ = plans.shape
    before = z.shape[1] - 1
    rotation = rotary_for_tokens((before + steps, 1, 1), None, predictor.head_dim, z)
    pasts = [one.repeat(count) for one in _prefill_cache(predictor, z[:, :-1], past, rotation)]
    told = predictor.action(plans.flatten(0, 1))
    turns = [block.modulation_params(told) for block in _blocks(predictor)]
    now, ahead = z[:, None, -1:].expand(-1, count, -1, -1).flatten(0, 1), []
    for step in range(steps):
        x, place = predictor.embed(now), _slice_rotation(rotation, before + step, before + step + 1)
        for block, turn, known in zip(_blocks(predictor), turns, pasts, strict=True):
            x = block.step_with_cache(x, place, turn[:, step : step + 1], known, 1)
        now = predictor.projection(predictor.norm(x))
        ahead.append(now)
    return torch.cat(ahead, 1).view(problems, count, steps, -1)


def _prefill_cache(
    predictor: LeWMPredictor, z: Tensor, done: Tensor, rotation: Rotation
) -> list[KVCache]:
    """Every block's keys and values of the moments [B, n, encoder_dim] before the present one."""
    pasts = [KVCache() for _ in predictor.blocks]
    moments = z.shape[1]
    if not moments:
        return pasts
    assert predictor.action is not None
    x, told, place = (
        predictor.embed(z),
        predictor.action(done),
        _slice_rotation(rotation, 0, moments),
    )
    seen = torch.ones(moments, moments, dtype=torch.bool, device=z.device).tril()
    for block, known in zip(_blocks(predictor), pasts, strict=True):
        x = block.step_with_cache(x, place, block.modulation_params(told), known, moments, seen)
    return pasts


def _blocks(predictor: LeWMPredictor) -> list[AdaLNZeroBlock]:
    return [block for block in predictor.blocks if isinstance(block, AdaLNZeroBlock)]


def _slice_rotation(rotation: Rotation, first: int, stop: int) -> Rotation:
    cos, sin = (each[:, first:stop] for each in rotation)
    return cos, sin
