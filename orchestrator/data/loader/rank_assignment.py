"""Which position stands in which row of a step, and which rank is dealt it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.data.loader.order import PADDING
from orchestrator.estimate import BatchPlan

BLOCK_BYTES = 32_000_000
"""Blocks hold about this much coded video at most (one clip may be larger)."""

STEPS_PER_BLOCK = 8
"""Where clips are small, a block holds a rank's rows of several steps: each block costs Ray
about 15 ms of processor time, whatever it holds."""


@dataclass(frozen=True)
class Layout:
    """A step's rows in blocks of one size, dealt to the ranks in turn.

    Step s holds positions [s * G, (s + 1) * G) and then the padding; its part j goes to rank
    j mod world. All of it is a pure function, so that a rank can check what it was given.
    """

    batch: BatchPlan
    part: int
    """Consecutive rows of a step that go to one rank."""

    steps: int = 1
    """Steps of a block. One: a block is a part. More: a part is all that a rank gets of a
    step, and a block holds the parts of one rank at consecutive steps."""

    @classmethod
    def of(cls, batch: BatchPlan, clip_bytes: float) -> Layout:
        """The largest blocks below BLOCK_BYTES that divide a micro-batch, or hold several
        steps."""
        most = max(1, int(BLOCK_BYTES // max(clip_bytes, 1)))
        share = batch.micro * batch.accum
        if most >= 2 * share:
            return cls(batch, share, min(STEPS_PER_BLOCK, most // share))
        part = max(n for n in range(1, batch.micro + 1) if batch.micro % n == 0 and n <= most)
        return cls(batch, part)

    @property
    def block(self) -> int:
        """Rows of a block (at the end of a leg, where steps run out, perhaps fewer)."""
        return self.part * self.steps

    @property
    def blocks_per_step(self) -> float:
        """Blocks of one step over all ranks."""
        return self.batch.padded / self.block

    def dealt(self, step: int, rank: int) -> np.ndarray:
        """int64 [micro * accum]: the positions of a rank's rows at a step, in their order."""
        return self._parts(step)[rank :: self.batch.world].reshape(-1)

    def blocks(self, steps: range) -> list[np.ndarray]:
        """The positions of each block of some steps, in the order in which they are dealt."""
        if self.steps == 1:
            return [part for step in steps for part in self._parts(step)]
        groups = [steps[at : at + self.steps] for at in range(0, len(steps), self.steps)]
        ranks = range(self.batch.world)
        return [
            np.concatenate([self.dealt(s, r) for s in group]) for group in groups for r in ranks
        ]

    def _parts(self, step: int) -> np.ndarray:
        rows = np.full(self.batch.padded, PADDING, dtype=np.int64)
        size = self.batch.global_batch
        rows[:size] = np.arange(step * size, (step + 1) * size)
        return rows.reshape(-1, self.part)
