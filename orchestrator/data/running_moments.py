"""Mean and standard deviation of the numbers of rows, added up in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Moments:
    """Of rows of n numbers each; float64 [n].

    Sums are of differences (Chan, Golub and LeVeque 1979): numbers far from zero lose nothing, and
    one that never changes has a deviation of exactly 0.
    """

    rows: int
    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    """Sum of the squared differences from the mean."""

    @classmethod
    def from_rows(cls, rows: npt.NDArray[Any]) -> Moments:
        """Of rows [m, n], one at least."""
        first = rows[0].astype(np.float64)
        apart = rows.astype(np.float64) - first
        mean = apart.mean(0)
        return cls(len(rows), first + mean, ((apart - mean) ** 2).sum(0))

    def merged(self, other: Moments) -> Moments:
        """Of the rows of both."""
        rows = self.rows + other.rows
        apart = other.mean - self.mean
        share = other.rows / rows
        squares = self.squares + other.squares + apart**2 * (self.rows * share)
        return Moments(rows, self.mean + apart * share, squares)

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Standard deviation; 0 where a number never changes."""
        return np.asarray(np.sqrt(self.squares / self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; numbers come back exactly."""
        return {
            "rows": self.rows,
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
            "std": self.std.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Moments:
        """What `to_dict` gave."""
        return cls(data["rows"], np.array(data["mean"]), np.array(data["squares"]))


def pooled_mean_std(
    moments: Sequence[Moments], weights: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of what is drawn from several sources with such shares; 1 where
    a number never changes."""
    part = np.asarray(weights, np.float64)[:, None] / sum(weights)
    first = moments[0].mean
    apart = np.stack([spread.mean - first for spread in moments])
    mean = (part * apart).sum(0)
    variance = (part * (np.stack([s.std for s in moments]) ** 2 + (apart - mean) ** 2)).sum(0)
    std = np.sqrt(variance)
    return (first + mean).tolist(), np.where(std > 0, std, 1.0).tolist()
