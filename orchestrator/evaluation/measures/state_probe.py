"""What the features of possible videos say about the true states: rows for a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.ridge import pool_to_grid, ridge_probe
from orchestrator.physics.suite.quads import Quad

STATE_NAMES = ("x", "y", "vx", "vy")
"""Of the object that the scenario is about, in frame sizes (and frame sizes a second)."""


@dataclass(frozen=True)
class StateRows:
    """One row for each tubelet in which the object is seen."""

    features: np.ndarray
    """float32 [rows, dim]."""

    targets: np.ndarray
    """float32 [rows, 4]."""

    groups: np.ndarray
    """int [rows]: which quad a row is of."""


def collect_state_rows(
    model: Evaluable, quads: Sequence[Quad], features: Sequence[Tensor] | None = None
) -> StateRows:
    """Features and states of the possible videos of some quads, from their first windows.

    Args:
        features: of those windows where they are known already, [2, tokens, dim] of each quad.
    """
    shape = model.clip
    tubelet, frames = shape.tubelet, shape.frames
    kept, targets, numbers = [], [], []
    for number, quad in enumerate(quads):
        if features is None:
            clips = torch.from_numpy(quad.videos[[0, 1], [0, 1], :frames])
            known = model.encode(clips).cpu()
        else:
            known = features[number]
        pooled = pool_to_grid(known.numpy(), shape.grid)
        state = quad.states[[0, 1], [0, 1], :frames, 0] / shape.size
        seen = quad.visible[[0, 1], [0, 1], :frames, 0]
        # A tubelet's state is the mean over its frames; it counts where it is seen in all.
        state = state.reshape(2, -1, tubelet, 4).mean(2)
        there = seen.reshape(2, -1, tubelet).all(2) & np.isfinite(state).all(2)
        kept.append(pooled[there])
        targets.append(state[there])
        numbers.append(np.full(int(there.sum()), number))
    return StateRows(
        np.concatenate(kept).astype(np.float32),
        np.concatenate(targets).astype(np.float32),
        np.concatenate(numbers),
    )


def probe_states(fitted: Sequence[StateRows], held_out: Sequence[StateRows]) -> dict[str, float]:
    """R2 of each target on rows that the probe was not fitted to."""
    train, test = concat_rows(fitted), concat_rows(held_out)
    found = ridge_probe(train.features, train.targets, train.groups, test.features, test.targets)
    return {name: float(r2) for name, r2 in zip(STATE_NAMES, found.r2, strict=True)}


def concat_rows(rows: Sequence[StateRows]) -> StateRows:
    """All rows; quads of different units stay different."""
    firsts = np.cumsum([0, *(one.groups.max(initial=0) + 1 for one in rows)])
    return StateRows(
        np.concatenate([one.features for one in rows]),
        np.concatenate([one.targets for one in rows]),
        np.concatenate([one.groups + first for one, first in zip(rows, firsts, strict=False)]),
    )
