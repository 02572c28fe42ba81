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
from orchestrator.jepa.objectives.sigreg import characteristic_sums, per_clip_losses, random_slices


@dataclass
class ClipSets:
    """The sets that the clips of one micro-batch belong to."""

    set_index: Tensor
    """int64 [B]: the set of each clip; of a row that does not count, any."""

    mean_weight: Tensor
    """float32 [sets, B]: a clip's share in its set's mean. A set's shares over all ranks and
    micro-batches sum to 1."""

    clips_per_set: Tensor
    """float32 [sets]: clips of all ranks and micro-batches that count in each set."""

    seed: int
    """Of what is drawn anew each step; the same on all ranks."""

    all_reduce_sum: Callable[[Tensor], Tensor]
    """Sums over the ranks: a collective. Called once in each forward, unless `precomputed_sums` is
    known."""

    precomputed_sums: Tensor | None = None
    """What a first pass over all micro-batches summed up; None where there is only one."""

    @classmethod
    def single_set(cls, video: Tensor) -> ClipSets:
        """These clips are one whole set."""
        count = len(video)
        return cls(
            torch.zeros(count, dtype=torch.int64, device=video.device),
            torch.full((1, count), 1 / count, device=video.device),
            torch.full((1,), float(count), device=video.device),
            seed=0,
            all_reduce_sum=lambda sums: sums,
        )


class BatchStatisticObjective(Objective):
    """An objective with a statistic over sets of clips; `ClipSets` are its `forward`'s targets."""

    statistic_clips: int
    """Clips of a set."""

    def partial_sums(self, video: Tensor, pool: ClipSets) -> Tensor:
        """What these clips add to the sums of the sets; called without a graph.

        Only in a first pass, where a rank has several micro-batches.
        """
        raise NotImplementedError

    @staticmethod
    def global_means(own: Tensor, pool: ClipSets) -> Tensor:
        """The sums over all ranks and micro-batches: constants, whatever `own` depends on."""
        return (
            pool.all_reduce_sum(own.detach())
            if pool.precomputed_sums is None
            else pool.precomputed_sums
        )


class SIGRegObjective(BatchStatisticObjective):
    """Holds features to N(0, I) by SIGReg: at each of their positions, across the clips of a set.

    What LeJEPA calls a view of an image is here a position: a token, or a moment.
    """

    slices: int
    """Random directions, drawn anew each step."""

    def sigreg_features(self, video: Tensor) -> Tensor:
        """The features that are held, [B, 3, T, H, W] -> [B, positions, dim]."""
        raise NotImplementedError

    def partial_sums(self, video: Tensor, pool: ClipSets) -> Tensor:
        """Of cos(t x) and sin(t x): float32 [knots, 2, sets, positions * slices]."""
        return characteristic_sums(
            self._project_on_slices(self.sigreg_features(video), pool), pool.mean_weight
        )

    def sigreg_loss(self, features: Tensor, pool: ClipSets) -> Tensor:
        """One loss per clip, [B]: over a set their mean is the statistic, their gradient its own.

        Args:
            features: what `sigreg_features` gives, with a graph.
            pool: the sets of these clips.
        """
        x = self._project_on_slices(features, pool)
        means = self.global_means(characteristic_sums(x.detach(), pool.mean_weight), pool)
        return per_clip_losses(x, means, pool.clips_per_set, pool.set_index)

    def _project_on_slices(self, features: Tensor, pool: ClipSets) -> Tensor:
        """[B, positions, dim] -> float32 [B, positions * slices], whatever autocast says."""
        slices = random_slices(features.shape[-1], self.slices, pool.seed, features.device)
        with torch.autocast(features.device.type, enabled=False):
            return (features.float() @ slices).flatten(1)
