"""Steps that are not applied: a loss that is NaN or a spike; and when that has gone too far."""

from __future__ import annotations

import math
import statistics
from collections import deque

from orchestrator.errors import JobFailed

WINDOW = 64
"""Losses that a spike is measured against."""

LEAST = 16
"""Losses that are needed before anything is called a spike."""

MAX_SKIPPED = 10
"""Steps in a row that may be skipped."""


class Diverged(JobFailed):
    """Too many steps in a row could not be applied."""


class SpikeGuard:
    """Remembers the losses of applied steps, and counts the others.

    `limit`: a loss above `limit` times the median of the last 64 is a spike; 0: none is.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.skipped = 0
        """Steps in a row that were not applied."""

    @property
    def bound(self) -> float | None:
        """The largest loss that is no spike; None where none can be told."""
        if not self.limit or len(self.recent) < LEAST:
            return None
        return self.limit * statistics.median(self.recent)

    def count(self, loss: float, applied: bool, step: int) -> None:
        """One step is done; its loss is the mean over all ranks' clips.

        Raises:
            Diverged: `MAX_SKIPPED` in a row were not applied.
        """
        if applied and math.isfinite(loss):
            self.recent.append(loss)
            self.skipped = 0
            return
        self.skipped += 1
        if self.skipped >= MAX_SKIPPED:
            usual = ""
            if self.recent:
                usual = f"; before that it was about {statistics.median(self.recent):.4g}"
            raise Diverged(
                f"{self.skipped} steps in a row could not be applied: the loss is {loss:.4g}"
                f" or the gradient not finite{usual}",
                where=f"step {step}",
                mend="lower optim.lr, set optim.clip, or train in fp32; where the loss may jump so"
                " far, raise optim.spike_limit; the last checkpoint is untouched",
            )
