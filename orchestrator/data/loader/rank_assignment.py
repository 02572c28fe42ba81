"""Which position is in which row of a step, and which rank gets it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.data.loader.order import PADDING
from orchestrator.estimate import BatchSizes

MAX_BLOCK_BYTES = 32_000_000
"""Most bytes of encoded video in a block (a single clip may be larger)."""

STEPS_PER_BLOCK = 8
"""Most steps of a block. If clips are small, a block holds a rank's rows of several steps:
each block costs Ray about 15 ms of CPU time, whatever its size."""


@dataclass(frozen=True)
class RankAssignment:
    """Divides the rows of a step into parts of one size, which the ranks get round-robin.

    Step s holds positions [s * G, (s + 1) * G) and then the padding; its part j goes to rank
    j mod world size. It is a pure function, so that a rank can check the rows that it gets.
    """

    batch: BatchSizes
    rows_per_part: int
    """Consecutive rows of a step that go to one rank."""

    steps_per_block: int = 1
    """1: a block is one part. More: a part is all rows of a rank at a step, and a block holds the
    parts of one rank at this many consecutive steps."""

    @classmethod
    def for_clip_size(cls, batch: BatchSizes, clip_bytes: float) -> RankAssignment:
        """The assignment with the largest blocks below `MAX_BLOCK_BYTES`.

        A block divides a micro-batch, or holds several steps.

        Args:
            clip_bytes: estimated bytes of an encoded clip.
        """
        max_rows = max(1, int(MAX_BLOCK_BYTES // max(clip_bytes, 1)))
        share = batch.micro * batch.accum
        if max_rows >= 2 * share:
            return cls(batch, share, min(STEPS_PER_BLOCK, max_rows // share))
        rows_per_part = max(
            n for n in range(1, batch.micro + 1) if batch.micro % n == 0 and n <= max_rows
        )
        return cls(batch, rows_per_part)

    @property
    def rows_per_block(self) -> int:
        """Rows of a block; the last block of a window may have fewer."""
        return self.rows_per_part * self.steps_per_block

    @property
    def blocks_per_step(self) -> float:
        """Blocks of one step over all ranks."""
        return self.batch.padded / self.rows_per_block

    def rank_positions(self, step: int, rank: int) -> np.ndarray:
        """int64 [micro * accum]: the positions of a rank's rows at a step, in their order."""
        return self._parts(step)[rank :: self.batch.world].reshape(-1)

    def block_positions(self, steps: range) -> list[np.ndarray]:
        """The positions of each block of some steps, in the order of distribution to the ranks."""
        if self.steps_per_block == 1:
            return [part for step in steps for part in self._parts(step)]
        groups = [
            steps[start : start + self.steps_per_block]
            for start in range(0, len(steps), self.steps_per_block)
        ]
        ranks = range(self.batch.world)
        return [
            np.concatenate([self.rank_positions(s, r) for s in group])
            for group in groups
            for r in ranks
        ]

    def _parts(self, step: int) -> np.ndarray:
        rows = np.full(self.batch.padded, PADDING, dtype=np.int64)
        size = self.batch.global_batch
        rows[:size] = np.arange(step * size, (step + 1) * size)
        return rows.reshape(-1, self.rows_per_part)
