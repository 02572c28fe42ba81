"""Steps that are not applied: a loss that is NaN or a spike; and when that has gone too far.

Clips of another shape may have another loss: each bucket is measured against its own past.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

from orchestrator.errors import JobFailed

WINDOW = 64
"""Losses that a spike is measured against."""

MIN_LOSSES = 16
"""Losses that are needed before anything is called a spike."""

MAX_SKIPPED = 10
"""Steps in a row that may be skipped."""


SINGLE_BUCKET = ""
"""The bucket of a training that has no others."""


class TrainingDiverged(JobFailed):
    """Too many steps in a row could not be applied."""


class RollbackRequested(Exception):
    """The training diverged and begins again at its last checkpoint, once."""


class SpikeGuard:
    """Remembers the losses of applied steps, and counts the others.

    `limit`: a loss above `limit` times the median of its bucket's last 64 is a spike; 0: none is.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self._bucket = limit, SINGLE_BUCKET
        self._losses: dict[str, deque[float]] = {}
        self.consecutive_skipped = 0
        """Steps in a row that were not applied."""

    def set_bucket(self, bucket: str) -> None:
        """The steps from now on are of this bucket."""
        self._bucket = bucket

    @property
    def recent(self) -> deque[float]:
        """The losses of the present bucket."""
        return self._losses.setdefault(self._bucket, deque(maxlen=WINDOW))

    def state_dict(self) -> list[float] | dict[str, list[float]]:
        """The recent losses, for a checkpoint; by bucket where there are several."""
        if self._losses.keys() <= {SINGLE_BUCKET}:
            return list(self.recent)
        return {bucket: list(losses) for bucket, losses in self._losses.items()}

    def load_state_dict(self, state: list[float] | dict[str, list[float]]) -> None:
        """What `state_dict` gave in an earlier start."""
        by_bucket = state if isinstance(state, dict) else {SINGLE_BUCKET: state}
        for bucket, losses in by_bucket.items():
            self._losses[bucket] = deque(losses, maxlen=WINDOW)

    @property
    def threshold(self) -> float | None:
        """The largest loss that is no spike; None where none can be told."""
        if not self.limit or len(self.recent) < MIN_LOSSES:
            return None
        return self.limit * statistics.median(self.recent)

    def record_step(self, loss: float, applied: bool, step: int) -> None:
        """One step is done; its loss is the mean over all ranks' clips.

        Raises:
            Diverged: `MAX_SKIPPED` in a row were not applied.
        """
        if applied and math.isfinite(loss):
            self.recent.append(loss)
            self.consecutive_skipped = 0
            return
        self.consecutive_skipped += 1
        if self.consecutive_skipped >= MAX_SKIPPED:
            usual = ""
            if self.recent:
                usual = f"; before that it was about {statistics.median(self.recent):.4g}"
            raise TrainingDiverged(
                f"{self.consecutive_skipped} steps in a row could not be applied: the loss is"
                f" {loss:.4g} or the gradient not finite{usual}",
                where=f"step {step}",
                hint="lower optim.lr, set optim.clip, or train in fp32; where the loss may jump so"
                " far, raise optim.spike_limit; the last checkpoint is untouched",
            )
