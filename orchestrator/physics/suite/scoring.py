"""From the surprise of four cells to right or wrong. Chance: pairs 0.5, quads 0.25."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating]


def _win_rate(possible: Scores, impossible: Scores) -> npt.NDArray[np.float64]:
    """1 where the possible cell surprises less, half for a tie; NaN surprises count as ties."""
    unknown = np.isnan(possible) | np.isnan(impossible)
    right = (possible < impossible) + 0.5 * (possible == impossible)
    return np.where(unknown, 0.5, right)


def pair_accuracy(scores: Scores) -> npt.NDArray[np.float64]:
    """Share of the 4 pairs (each possible cell against each impossible one) that are right.

    Args:
        scores: surprise `[n, 2, 2]` of (context, outcome); possible where equal.

    Returns:
        `[n]` in 0..1, ties count half.
    """
    scores = np.asarray(scores, np.float64)
    possible = (scores[:, 0, 0], scores[:, 1, 1])
    impossible = (scores[:, 0, 1], scores[:, 1, 0])
    return np.asarray(np.mean([_win_rate(p, i) for p in possible for i in impossible], axis=0))


def quad_correct(scores: Scores) -> npt.NDArray[np.float64]:
    """Whether both outcomes surprise less in their own context, so that oddness cancels.

    Args:
        scores: surprise `[n, 2, 2]` of (context, outcome).

    Returns:
        `[n]` in 0..1: 1 if s[0, 0] < s[1, 0] and s[1, 1] < s[0, 1]; a tie counts half in each.
    """
    scores = np.asarray(scores, np.float64)
    first = _win_rate(scores[:, 0, 0], scores[:, 1, 0])
    second = _win_rate(scores[:, 1, 1], scores[:, 0, 1])
    return np.asarray(first * second)
