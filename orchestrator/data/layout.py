"""Which position stands in which row of a step, and which rank is dealt it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.data.order import PADDING
from orchestrator.plan import BatchPlan

BLOCK_BYTES = 8_000_000
"""Blocks hold about this much coded video at most (one clip may be larger)."""


@dataclass(frozen=True)
class Layout:
    """A step's rows in blocks of one size, dealt to the ranks in turn.

    Step s holds positions [s * G, (s + 1) * G) and then the padding; block j goes to rank
    j mod world. All of it is a pure function, so that a rank can check what it was given.
    """

    batch: BatchPlan
    block: int
    """Rows of a block; divides the micro-batch."""

    @classmethod
    def of(cls, batch: BatchPlan, clip_bytes: float) -> Layout:
        """The largest block that divides a micro-batch and stays below BLOCK_BYTES."""
        most = max(1, int(BLOCK_BYTES // max(clip_bytes, 1)))
        block = max(n for n in range(1, batch.micro + 1) if batch.micro % n == 0 and n <= most)
        return cls(batch, block)

    @property
    def blocks_per_step(self) -> int:
        """Blocks of one step over all ranks."""
        return self.batch.padded // self.block

    @property
    def blocks_per_rank(self) -> int:
        """Blocks that a rank is dealt per step."""
        return self.blocks_per_step // self.batch.world

    def blocks(self, step: int) -> np.ndarray:
        """int64 [blocks_per_step, block]: the positions of a step's rows."""
        rows = np.full(self.batch.padded, PADDING, dtype=np.int64)
        size = self.batch.global_batch
        rows[:size] = np.arange(step * size, (step + 1) * size)
        return rows.reshape(-1, self.block)

    def dealt(self, step: int, rank: int) -> np.ndarray:
        """int64 [blocks_per_rank, block]: the positions that a rank trains at a step."""
        return self.blocks(step)[rank :: self.batch.world]
