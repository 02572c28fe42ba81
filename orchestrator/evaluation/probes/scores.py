"""What a probe reached: top-1, R2 and average precision, each with an interval over videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.report.statistics import RESAMPLES, ConfidenceInterval

TOP1, R2, AP = "top-1", "R2", "average precision"


@dataclass(frozen=True)
class ProbeScore:
    """One target's. `value` None: it cannot be had (no contact among the rows, say)."""

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None


def top1_accuracy(right: np.ndarray, video: np.ndarray, confidence: float) -> ProbeScore:
    """The share of rows that are right; bool [rows], and the video of each."""
    sums = _sums_by_video(video, right.astype(float), np.ones(len(right)))

    def of(n: np.ndarray) -> np.ndarray:
        return np.asarray(n @ sums[0] / (n @ sums[1]))

    return _bootstrap_over_videos(TOP1, of, video, confidence)


def r_squared(
    predicted: np.ndarray, truth: np.ndarray, video: np.ndarray, confidence: float
) -> ProbeScore:
    """1 - squared error over the squared distance from the mean; 0: as good as the mean."""
    if np.ptp(truth) == 0:
        return ProbeScore(R2, None)
    moved = truth - truth.mean()
    apart, first, second, count = _sums_by_video(
        video, (truth - predicted) ** 2, moved, moved**2, np.ones(len(truth))
    )

    def of(n: np.ndarray) -> np.ndarray:
        spread = n @ second - (n @ first) ** 2 / (n @ count)
        return np.asarray(1 - (n @ apart) / np.maximum(spread, 1e-12))

    return _bootstrap_over_videos(R2, of, video, confidence)


def average_precision(
    predicted: np.ndarray, truth: np.ndarray, video: np.ndarray, confidence: float
) -> ProbeScore:
    """Precision, averaged over recall; chance is the share of rows that are true."""
    if not 0 < truth.mean() < 1:
        return ProbeScore(AP, None)
    order = np.argsort(-predicted, kind="stable")
    yes = truth[order].astype(float)
    # Rows with one prediction are passed together.
    last = np.append(np.flatnonzero(np.diff(predicted[order])), len(order) - 1)
    _, number = np.unique(video, return_inverse=True)

    def of(n: np.ndarray) -> np.ndarray:
        return np.array([_weighted_average_precision(one[number[order]], yes, last) for one in n])

    return _bootstrap_over_videos(AP, of, video, confidence)


def _weighted_average_precision(weight: np.ndarray, yes: np.ndarray, last: np.ndarray) -> float:
    found = np.cumsum(weight * yes)[last]
    passed = np.cumsum(weight)[last]
    if found[-1] == 0:
        return float("nan")  # a resample without any: it says nothing
    gained = np.diff(found, prepend=0.0) / found[-1]
    return float((gained * found / np.maximum(passed, 1e-12)).sum())


def _sums_by_video(video: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """Each column's sum over the rows of each video."""
    _, number = np.unique(video, return_inverse=True)
    return [np.bincount(number, column) for column in columns]


def _bootstrap_over_videos(
    metric: str,
    of: Callable[[np.ndarray], np.ndarray],
    video: np.ndarray,
    confidence: float,
    seed: int = 0,
) -> ProbeScore:
    """A bootstrap over videos: rows of one video stand and fall together.

    Args:
        of: from how often each video is drawn, float [draws, videos], to the metric.
    """
    videos = len(np.unique(video))
    draw = np.random.default_rng(seed)
    counts = draw.multinomial(videos, np.full(videos, 1 / videos), RESAMPLES).astype(float)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(of(counts), [tail, 1 - tail])
    found = ConfidenceInterval(float(of(np.ones((1, videos)))[0]), float(low), float(high))
    return ProbeScore(metric, found.value, found.low, found.high)
