"""Statistics of an evaluation: accuracies, their intervals, and corrected p-values.

scipy computes what it defines as we do (ranks, Wilson's interval). The bootstraps, the sign-flip
test and Holm's correction are written here: scipy draws its resamples in another order, so its
intervals would differ from those on record under the same protocol hash, and it has no Holm.

Scores are float [quads, 2, 2], the surprise at context i and outcome j; possible where i = j.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, rankdata

RESAMPLES = 2000

ScoreFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ConfidenceInterval:
    """A share with its interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(values: np.ndarray, confidence: float, seed: int = 0) -> ConfidenceInterval:
    """The mean of one number per quad, with a bootstrap interval: quads are what is resampled."""
    draw = np.random.default_rng(seed)
    chosen = draw.integers(0, len(values), (RESAMPLES, len(values)))
    means = values[chosen].mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return ConfidenceInterval(float(values.mean()), float(low), float(high))


def bootstrap_macro_mean(
    by_scenario: Mapping[str, np.ndarray], confidence: float, seed: int = 0
) -> ConfidenceInterval:
    """The mean over scenarios of their means; quads are resampled inside each scenario."""
    draw = np.random.default_rng(seed)
    means = [
        values[draw.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
        for values in by_scenario.values()
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.mean(means, axis=0), [tail, 1 - tail])
    value = float(np.mean([values.mean() for values in by_scenario.values()]))
    return ConfidenceInterval(value, float(low), float(high))


def auroc(possible: np.ndarray, impossible: np.ndarray) -> float:
    """Area under the ROC curve: how often an impossible score is larger than a possible one.

    Of ranks, as Mann and Whitney's U; a tie counts half. Exact, unlike a trapezoidal sum.
    """
    n, m = len(possible), len(impossible)
    ranks = rankdata(np.concatenate([impossible, possible]))[:m]
    return float((ranks.sum() - m * (m + 1) / 2) / (n * m))


def quad_auroc(scores: np.ndarray) -> float:
    """AUROC of the impossible against the possible videos of a scenario."""
    return auroc(
        np.concatenate([scores[:, 0, 0], scores[:, 1, 1]]),
        np.concatenate([scores[:, 0, 1], scores[:, 1, 0]]),
    )


def wilson_interval(successes: int, count: int, confidence: float) -> ConfidenceInterval:
    """A share with Wilson's score interval (1927), which holds at 0 and 1 too."""
    ends = binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return ConfidenceInterval(successes / count, float(ends.low), float(ends.high))


def paired_difference(
    mine: np.ndarray, theirs: np.ndarray, confidence: float
) -> ConfidenceInterval:
    """Difference of shares on the same tasks, bool [tasks] each: bootstrap over tasks."""
    return bootstrap_mean(mine.astype(float) - theirs.astype(float), confidence)


def sign_flip_test(per_quad: np.ndarray, chance: float = 0.5, seed: int = 0) -> float:
    """p-value of "the mean is above chance": signs of the deviations are flipped per quad."""
    apart = per_quad - chance
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (RESAMPLES, len(apart)))
    as_large = (signs * np.abs(apart)).mean(1) >= apart.mean() - 1e-12
    return float((as_large.sum() + 1) / (RESAMPLES + 1))


def holm_adjust(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for their number (Holm's step-down)."""
    adjusted, worst = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = worst
    return adjusted


def localisation_errors(curves: np.ndarray, t_break: np.ndarray) -> np.ndarray:
    """Distance in frames of the moment of most extra surprise from the violation's, [quads].

    Args:
        curves: [quads, 2, 2, frames], NaN where nothing is predicted.
        t_break: int [quads].
    """
    apart: np.ndarray = np.abs(_surprise_gap(curves).argmax(-1) - t_break[:, None]).mean(1)
    return apart


def localisation_chance(curves: np.ndarray, t_break: np.ndarray) -> float:
    """The same for a moment that is drawn from the predicted frames, in the mean."""
    known = np.isfinite(_surprise_gap(curves))
    apart = np.abs(np.arange(known.shape[-1]) - t_break[:, None, None])
    return float(((apart * known).sum(-1) / known.sum(-1)).mean())


def _surprise_gap(curves: np.ndarray) -> np.ndarray:
    """What the impossible outcome of a context surprises more, [quads, 2, frames]."""
    possible = curves[:, [0, 1], [0, 1]]
    impossible = curves[:, [0, 1], [1, 0]]  # the same contexts, the other outcomes
    extra: np.ndarray = np.nan_to_num(impossible - possible, nan=-np.inf)
    return extra


def gain_over_baseline(
    model: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray], confidence: float
) -> ConfidenceInterval:
    """By how much a model has more right than a rule, on the same quads of each scenario."""
    return bootstrap_macro_mean({name: model[name] - baseline[name] for name in model}, confidence)


def gain_over_random(
    model: Mapping[str, np.ndarray],
    random: Sequence[Mapping[str, np.ndarray]],
    confidence: float,
    seed: int = 0,
) -> ConfidenceInterval:
    """By how much a model has more right than random ones.

    What is resampled: the model's quads inside each scenario, and which random models there are.
    """
    draw = np.random.default_rng(seed)
    mine = np.mean(
        [
            values[draw.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
            for values in model.values()
        ],
        axis=0,
    )
    each = np.array([np.mean([values.mean() for values in one.values()]) for one in random])
    theirs = each[draw.integers(0, len(each), (RESAMPLES, len(each)))].mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(mine - theirs, [tail, 1 - tail])
    value = float(np.mean([values.mean() for values in model.values()]) - each.mean())
    return ConfidenceInterval(value, float(low), float(high))


__all__ = [
    "ConfidenceInterval",
    "auroc",
    "bootstrap_macro_mean",
    "bootstrap_mean",
    "gain_over_baseline",
    "gain_over_random",
    "holm_adjust",
    "localisation_chance",
    "localisation_errors",
    "paired_difference",
    "quad_auroc",
    "sign_flip_test",
    "wilson_interval",
]
