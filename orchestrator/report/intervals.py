"""Shares of tasks, and differences of shares, with what chance makes of them."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from orchestrator.report.statistics import ConfidenceInterval, bootstrap_mean


def wilson_interval(successes: int, count: int, confidence: float) -> ConfidenceInterval:
    """A share with Wilson's score interval (1927): it holds at 0 and 1 too."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, more = successes / count, z**2 / count
    middle = (share + more / 2) / (1 + more)
    half = z / (1 + more) * (share * (1 - share) / count + more / (4 * count)) ** 0.5
    return ConfidenceInterval(share, max(0.0, middle - half), min(1.0, middle + half))


def paired_difference(
    mine: np.ndarray, theirs: np.ndarray, confidence: float
) -> ConfidenceInterval:
    """Difference of shares on the same tasks, bool [tasks] each: bootstrap over tasks."""
    return bootstrap_mean(mine.astype(float) - theirs.astype(float), confidence)
