"""A ridge probe on frozen features: what can be read off them by a linear map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LAMBDAS = tuple(10.0**power for power in range(-2, 7))
"""Strengths of the penalty; all of them are tried in one pass."""


@dataclass(frozen=True)
class Probed:
    """What a probe reached on data that it was not fitted to."""

    r2: np.ndarray
    """float [targets]."""

    strength: np.ndarray
    """The penalty that leave-one-out error chose for each target."""


def ridge_probe(
    features: np.ndarray, targets: np.ndarray, held_out: np.ndarray, truth: np.ndarray
) -> Probed:
    """Fit on some rows, score on others.

    The penalty is chosen by the leave-one-out error of the rows that are fitted, in closed form
    (Hastie et al., The Elements of Statistical Learning, equation 7.64), never by the others.

    Args:
        features: float [n, dim]; `held_out` [m, dim].
        targets: float [n, k], no NaN; `truth` [m, k].
    """
    center, scale = features.mean(0), features.std(0) + 1e-8
    x, offset = (features - center) / scale, targets.mean(0)
    y = targets - offset
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    rotated = u.T @ y
    least, chosen = np.full(y.shape[1], np.inf), np.zeros(y.shape[1])
    weights = np.zeros((x.shape[1], y.shape[1]))
    for strength in LAMBDAS:
        shrink = s**2 / (s**2 + strength)
        # The mean is fitted too: it takes 1/n of each row's own weight.
        own = (u**2 * shrink).sum(1) + 1 / len(x)
        residual = (y - u @ (shrink[:, None] * rotated)) / np.maximum(1 - own, 1e-6)[:, None]
        error = (residual**2).mean(0)
        better = error < least
        least[better], chosen[better] = error[better], strength
        weights[:, better] = vt.T @ ((s / (s**2 + strength))[:, None] * rotated[:, better])
    predicted = (held_out - center) / scale @ weights + offset
    apart = ((truth - predicted) ** 2).sum(0)
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    return Probed(1 - apart / np.maximum(spread, 1e-12), chosen)


def grid_pooled(features: np.ndarray, grid: tuple[int, int, int], side: int = 4) -> np.ndarray:
    """Means over a coarse grid, so that where things are is not lost.

    float [clips, tokens, dim] -> [clips, tubelets, cells * dim]; `grid` is (time, height, width).
    """
    t, h, w = grid
    rows = min(side, h, w)
    x = features.reshape(len(features), t, h, w, -1)
    cut_h, cut_w = np.array_split(np.arange(h), rows), np.array_split(np.arange(w), rows)
    cells = [x[:, :, a][:, :, :, b].mean((2, 3)) for a in cut_h for b in cut_w]
    return np.concatenate(cells, axis=-1)
