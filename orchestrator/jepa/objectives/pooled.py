"""Objectives whose loss joins clips: what one micro-batch must know of all others.

A statistic acts on *sets* of clips, cut from the global batch by position. It depends on sums over
a set only, so these are added up over ranks and micro-batches before any of it is squared, and
the gradient is that of the whole set at every world size and accumulation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.jepa.objectives.base import Objective


@dataclass
class Pool:
    """The sets that the clips of one micro-batch belong to."""

    member: Tensor
    """int64 [B]: the set of each clip; of a row that does not count, any."""

    share: Tensor
    """float32 [sets, B]: a clip's share in its set's mean. A set's shares over all ranks and
    micro-batches sum to 1."""

    clips: Tensor
    """float32 [sets]: clips of all ranks and micro-batches that count in each set."""

    seed: int
    """Of what is drawn anew each step; the same on all ranks."""

    add_up: Callable[[Tensor], Tensor]
    """Sums over the ranks: a collective. Called once in each forward, unless `sums` is known."""

    sums: Tensor | None = None
    """What a first pass over all micro-batches summed up; None where there is only one."""

    @classmethod
    def alone(cls, video: Tensor) -> Pool:
        """These clips are one whole set."""
        count = len(video)
        return cls(
            torch.zeros(count, dtype=torch.int64, device=video.device),
            torch.full((1, count), 1 / count, device=video.device),
            torch.full((1,), float(count), device=video.device),
            seed=0,
            add_up=lambda sums: sums,
        )


class PooledObjective(Objective):
    """An objective with a statistic over sets of clips. Its `forward` takes a `Pool` as targets."""

    statistic_clips: int
    """Clips of a set."""

    def sums(self, video: Tensor, pool: Pool) -> Tensor:
        """What these clips add to the sums of the sets; called without a graph.

        Only in a first pass, where a rank has several micro-batches.
        """
        raise NotImplementedError

    @staticmethod
    def means(own: Tensor, pool: Pool) -> Tensor:
        """The sums over all ranks and micro-batches: constants, whatever `own` depends on."""
        return pool.add_up(own.detach()) if pool.sums is None else pool.sums
