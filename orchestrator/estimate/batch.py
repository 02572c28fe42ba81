"""Batch algebra: how a global batch is dealt to ranks and micro-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.job import Scale


@dataclass(frozen=True)
class BatchSizes:
    """How one global batch is dealt to `world` ranks in `accum` micro-batches each.

    The dealt batch holds `padded` rows, of which `padding` have weight 0, so every world
    size is legal and the global batch stays the same.
    """

    global_batch: int
    world: int
    micro: int
    accum: int

    @property
    def padded(self) -> int:
        """Rows dealt per step: world * micro * accum."""
        return self.world * self.micro * self.accum

    @property
    def padding(self) -> int:
        """Rows of weight 0 per step."""
        return self.padded - self.global_batch

    @classmethod
    def from_scale(cls, scale: Scale, world_size: int | None = None) -> BatchSizes:
        """The plan of a job's scale, at its own (largest) number of workers or another."""
        world_size = world_size or scale.max_workers
        micro = min(scale.micro_batch, math.ceil(scale.global_batch / world_size))
        accum = math.ceil(scale.global_batch / (world_size * micro))
        return cls(scale.global_batch, world_size, micro, accum)
