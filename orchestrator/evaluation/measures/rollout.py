"""Rollouts: how well the future's features are predicted, by how far ahead it lies.

The model sees the context and predicts all that follows at once. It is compared with what needs
no model: the last seen tubelet again (copy), and the last step again (linear extrapolation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.surprise import ContextSpec, WindowFeatures, encode_windows
from orchestrator.report.statistics import RESAMPLES

MIN_ERROR = 1e-6
"""Error that a rule has at least: what rounding leaves of features that are equal."""

RETRIEVAL_TOP_K = (1, 5)
"""Retrieval counts as right when the true future is among the nearest so many."""


@dataclass(frozen=True)
class Rollout:
    """Some clips' futures; a horizon is a tubelet after the context."""

    errors: dict[str, np.ndarray]
    """L1 to the teacher's normed features: model, copy, linear; float [clips, horizons]."""

    predicted: np.ndarray
    """Means over space, float [clips, horizons, dim]."""

    targets: np.ndarray
    """The same of what came, for every tubelet of the clip: float [clips, tubelets, dim]."""


def rollout_clips(model: Evaluable, clips: np.ndarray, view: ContextSpec) -> Rollout:
    """Predict what follows the view's context.

    Args:
        clips: uint8 [clips, T, size, size, 3], T being the model's clip length.
    """
    seen = encode_windows(model, torch.from_numpy(np.ascontiguousarray(clips)), [view])
    return compute_rollout(seen, view, model.clip.tokens_per_timestep)


def compute_rollout(sight: WindowFeatures, view: ContextSpec, area: int) -> Rollout:
    """What was predicted after the view's context, beside what came and trivial rules.

    Args:
        area: tokens of one moment.
    """

    def by_moment(tokens: Tensor) -> Tensor:
        return tokens.view(len(tokens), -1, area, tokens.shape[-1])

    wanted = by_moment(sight.prediction_targets)
    # The trivial rules may use only what was seen, encoded without the future.
    known = by_moment(sight.context_targets[view.context])
    predicted = by_moment(sight.predicted[view])
    seen = known.shape[1]
    ahead = torch.arange(1, wanted.shape[1] - seen + 1)[:, None, None]
    last, before = known[:, -1:], known[:, max(0, seen - 2)][:, None]
    rules = {
        "model": predicted,
        "copy": last.expand_as(predicted),
        "linear": last + ahead * (last - before),
    }
    future = wanted[:, seen:]
    return Rollout(
        {name: (rule - future).abs().mean((2, 3)).numpy() for name, rule in rules.items()},
        predicted.mean(2).numpy(),
        wanted.mean(2).numpy(),
    )


def rollout_table(rollouts: Sequence[Rollout], confidence: float) -> list[dict[str, Any]]:
    """By horizon: errors, skill over each trivial rule (1 - error / its error) with an interval,
    and retrieval among the clip's other moments and among other clips."""
    errors = {
        name: np.concatenate([one.errors[name] for one in rollouts]) for name in rollouts[0].errors
    }
    predicted = np.concatenate([one.predicted for one in rollouts])
    wanted = np.concatenate([one.targets for one in rollouts])
    seen = wanted.shape[1] - predicted.shape[1]
    rows = []
    for horizon in range(predicted.shape[1]):
        each = {name: error[:, horizon] for name, error in errors.items()}
        rows.append(
            {
                "tubelets_ahead": horizon + 1,
                "error": {name: float(error.mean()) for name, error in each.items()},
                "skill": {
                    name: _skill_interval(each["model"], each[name], confidence)
                    for name in ("copy", "linear")
                },
                "same_clip": _same_clip(predicted[:, horizon], wanted, seen + horizon),
                "cross_clip": _cross_clip(predicted[:, horizon], wanted[:, seen + horizon]),
            }
        )
    return rows


def skill_score(error: np.ndarray, baseline_error: np.ndarray) -> np.ndarray:
    """1 - error / a rule's error, of arrays or numbers.

    A rule may be exact: features of a still video, or of a collapsed model, do not change. A model
    that is exact as well has skill 0 then, and one that is not has a very negative one.
    """
    return np.asarray((baseline_error - error) / np.maximum(baseline_error, MIN_ERROR))


def _skill_interval(mine: np.ndarray, rule: np.ndarray, confidence: float) -> dict[str, float]:
    chosen = np.random.default_rng(0).integers(0, len(mine), (RESAMPLES, len(mine)))
    drawn = skill_score(mine[chosen].mean(1), rule[chosen].mean(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    value = float(skill_score(mine.mean(), rule.mean()))
    return {"value": value, "low": float(low), "high": float(high)}


def _same_clip(predicted: np.ndarray, wanted: np.ndarray, at: int) -> dict[str, float]:
    """Among all moments of its own clip: [clips, dim] against [clips, tubelets, dim]."""
    distance = np.abs(predicted[:, None] - wanted).mean(-1)
    return _retrieval(distance, np.full(len(predicted), at))


def _cross_clip(predicted: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Among the same moment of all clips: [clips, dim] against [clips, dim]."""
    distance = np.abs(predicted[:, None] - wanted[None]).mean(-1)
    return _retrieval(distance, np.arange(len(predicted)))


def _retrieval(distance: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Shares right among the nearest, [queries, candidates]; equal distances count against."""
    own = distance[np.arange(len(truth)), truth]
    nearer = (distance <= own[:, None]).sum(1) - 1
    chance = {f"chance@{k}": min(1.0, k / distance.shape[1]) for k in RETRIEVAL_TOP_K}
    return {f"@{k}": float((nearer < k).mean()) for k in RETRIEVAL_TOP_K} | chance
