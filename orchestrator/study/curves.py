"""From scores to a claim: how many times fewer videos one arm needs for the same score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVELS = 21


@dataclass(frozen=True)
class DataEfficiencyRatio:
    """N of the reference over N of an arm, at equal score."""

    value: float | None
    """None where the two curves have no score in common."""

    low: float | None = None
    high: float | None = None
    claim: bool = False
    """Whether the interval leaves out 1."""

    why: str = ""
    """What stands in the way of a claim."""


def data_efficiency_ratio(
    clips: np.ndarray, reference: np.ndarray, arm: np.ndarray, confidence: float
) -> DataEfficiencyRatio:
    """The ratio of need at equal score, with a bootstrap interval over seeds.

    A curve is the mean over seeds, made rising (the best of what up to N videos gave); N is
    interpolated in its logarithm. The ratio is the geometric mean over the scores that both
    curves reach, from each one's first to its last. Seeds are drawn for both arms together:
    they share initial weights and order.

    Args:
        clips: numbers of videos, rising [n].
        reference: scores [seeds, n]; `arm` likewise.
    """
    value = _ratio(clips, reference.mean(0), arm.mean(0))
    if value is None:
        return DataEfficiencyRatio(None, why="no score is reached by both curves")
    if len(arm) < 2:
        return DataEfficiencyRatio(value, why="one seed has no interval")
    draws = np.random.default_rng(0).integers(0, len(arm), (RESAMPLES, len(arm)))
    drawn = [_ratio(clips, reference[rows].mean(0), arm[rows].mean(0)) for rows in draws]
    known = [one for one in drawn if one is not None]
    apart = 1 - len(known) / RESAMPLES
    tail = (1 - confidence) / 2
    low, high = (float(v) for v in np.quantile(known, [tail, 1 - tail]))
    if apart > tail:
        why = f"in {100 * apart:.0f}% of the resamples no score is reached by both curves"
        return DataEfficiencyRatio(value, low, high, why=why)
    if low <= 1 <= high:
        return DataEfficiencyRatio(value, low, high, why="the interval includes 1")
    return DataEfficiencyRatio(value, low, high, claim=True)


def _ratio(clips: np.ndarray, reference: np.ndarray, arm: np.ndarray) -> float | None:
    mine, theirs = np.maximum.accumulate(arm), np.maximum.accumulate(reference)
    low, high = max(mine[0], theirs[0]), min(mine[-1], theirs[-1])
    if low >= high:
        return None
    levels = np.linspace(low, high, LEVELS)
    logs = np.log2(clips)
    apart = [
        _log_clips_at_score(logs, theirs, level) - _log_clips_at_score(logs, mine, level)
        for level in levels
    ]
    return float(2 ** np.mean(apart))


def _log_clips_at_score(logs: np.ndarray, rising: np.ndarray, level: float) -> float:
    """log2 of the N at which a rising curve first reaches a score within it."""
    at = int(np.searchsorted(rising, level, side="left"))
    if at == 0 or rising[at] == level:
        return float(logs[at])
    share = (level - rising[at - 1]) / (rising[at] - rising[at - 1])
    return float(logs[at - 1] + share * (logs[at] - logs[at - 1]))
