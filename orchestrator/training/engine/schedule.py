"""Learning rate and weight decay as pure functions of the step: a checkpoint holds neither."""

from __future__ import annotations

import math

from orchestrator.job import Optim

# A warm-up that names no start begins at a fifth of the peak (V-JEPA 2: 1e-4 to 5.25e-4).
DEFAULT_WARMUP_START_RATIO = 1 / 5


def learning_rate(optim: Optim, step: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Warm-up rises linearly from `lr_start` at step 0 to `lr` at step `warmup`. Then
    `warmup-constant-decay` stays at `lr` and falls linearly over the last `decay` steps;
    `cosine` falls along half a cosine. Both reach `lr_end` at step `steps - 1`.
    """
    start = optim.lr * DEFAULT_WARMUP_START_RATIO if optim.lr_start is None else optim.lr_start
    if step < optim.warmup:
        return start + (optim.lr - start) * step / optim.warmup
    if optim.schedule == "cosine":
        return cosine_anneal(
            optim.lr, optim.lr_end, step - optim.warmup, optim.steps - optim.warmup
        )
    left = optim.steps - 1 - step
    if left >= optim.decay:
        return optim.lr
    return optim.lr_end + (optim.lr - optim.lr_end) * max(left, 0) / optim.decay


def weight_decay(optim: Optim, step: int) -> float:
    """Weight decay of step `step`: half a cosine from `weight_decay` to `weight_decay_end`."""
    if optim.weight_decay_end is None:
        return optim.weight_decay
    return cosine_anneal(optim.weight_decay, optim.weight_decay_end, step, optim.steps)


def cosine_anneal(start: float, end: float, step: int, steps: int) -> float:
    """`start` at step 0, `end` at step `steps - 1` and after it."""
    share = min(step / max(steps - 1, 1), 1.0)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
