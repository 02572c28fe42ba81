"""A ridge probe on frozen features: what can be read off them by a linear map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.errors import JobFailed

LAMBDAS = tuple(10.0**power for power in range(-2, 8))
"""Strengths of the penalty; all of them are tried in one pass."""

FOLDS = 5


@dataclass(frozen=True)
class RidgeResult:
    """What a probe reached on data that it was not fitted to."""

    r2: np.ndarray
    """float [targets]."""

    penalty: np.ndarray
    """The penalty that was chosen for each target."""


def ridge_probe(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    held_out: np.ndarray,
    held_out_targets: np.ndarray,
) -> RidgeResult:
    """Fit on some rows, score on others.

    The penalty is chosen by cross-validation over whole groups: rows of one video are alike, and
    would flatter a weak penalty if they stood on both sides.

    Args:
        features: float [n, dim]; `held_out` [m, dim].
        targets: float [n, k], no NaN; `held_out_targets` [m, k].
        groups: int [n], the video that a row is of.
    """
    error = np.zeros((len(LAMBDAS), targets.shape[1]))
    fold = np.unique(groups, return_inverse=True)[1] % FOLDS
    for number in range(FOLDS):
        out = fold == number
        if out.any() and not out.all():
            guesses = RidgeRegression(features[~out], targets[~out]).predict(features[out])
            error += ((guesses - targets[out]) ** 2).sum(1)
    chosen = error.argmin(0)
    columns = np.arange(targets.shape[1])
    predicted = RidgeRegression(features, targets).predict(held_out)[chosen, :, columns].T
    apart = ((held_out_targets - predicted) ** 2).sum(0)
    spread = ((held_out_targets - held_out_targets.mean(0)) ** 2).sum(0)
    return RidgeResult(1 - apart / np.maximum(spread, 1e-12), np.array(LAMBDAS)[chosen])


class RidgeRegression:
    """Linear maps of standardised features, one for each strength of the penalty, in closed form.

    Args:
        x: float [rows, dim]; `y` float [rows, targets], no NaN.

    Raises:
        JobFailed: features are not finite, so nothing can be read off them.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        x = np.asarray(x, np.float64)
        bad = int((~np.isfinite(x)).any(1).sum())
        if bad:
            raise JobFailed(
                f"the model's features are not finite in {bad:,} of {len(x):,} rows: nothing can"
                " be read off them",
                hint="a model like this comes from a training that diverged: train it again with a"
                " lower optim.lr",
            )
        self._center, self._scale, self._offset = x.mean(0), x.std(0) + 1e-8, y.mean(0)
        x = (x - self._center) / self._scale
        if len(x) > x.shape[1]:
            squares, self._axes = np.linalg.eigh(x.T @ x)
            self._squares = squares.clip(min=0)
        else:
            _, s, vt = np.linalg.svd(x, full_matrices=False)
            self._squares, self._axes = s**2, vt.T
        self._rotated = self._axes.T @ (x.T @ (y - self._offset))

    def predict(self, new: np.ndarray, penalties: Sequence[float] = LAMBDAS) -> np.ndarray:
        """Predictions at each strength, float [strengths, rows, targets]."""
        at = (np.asarray(new, np.float64) - self._center) / self._scale @ self._axes
        return np.stack(
            [
                at @ (self._rotated / (self._squares + strength)[:, None]) + self._offset
                for strength in penalties
            ]
        )


def pool_to_grid(
    features: np.ndarray, grid: tuple[int, int, int], max_cells: int = 4
) -> np.ndarray:
    """Means over a coarse grid, so that where things are is not lost.

    float [clips, tokens, dim] -> [clips, tubelets, cells * dim]; `grid` is (time, height, width).
    """
    t, h, w = grid
    rows = min(max_cells, h, w)
    x = features.reshape(len(features), t, h, w, -1)
    cut_h, cut_w = np.array_split(np.arange(h), rows), np.array_split(np.arange(w), rows)
    cells = [x[:, :, a][:, :, :, b].mean((2, 3)) for a in cut_h for b in cut_w]
    return np.concatenate(cells, axis=-1)
