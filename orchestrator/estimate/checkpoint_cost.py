"""What checkpoints take: bytes of one and of all that are kept, and the time between two."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.job import TrainJob


@dataclass(frozen=True)
class CheckpointEstimate:
    """The checkpoints of a run, over all ranks."""

    bytes: int
    """Of one."""

    saves: int
    """In the whole run."""

    interval_steps: float
    """Steps from one to the next; on average, where what is to be judged is saved in between."""

    kept: int
    """At the end of the run."""

    most_bytes: int
    """That lie in the storage at once: what is kept, and the one being written."""

    def mean_lost_s(self, step_s: float) -> float:
        """Seconds of work that a crash costs on average: half an interval."""
        return self.interval_steps * step_s / 2


def estimate_checkpoints(job: TrainJob, checkpoint_bytes: int) -> CheckpointEstimate:
    """The saves of `job`, each of `checkpoint_bytes`."""
    policy, steps = job.checkpoint, job.optim.steps
    periods = {policy.every, *(one.every for one in job.evaluate)}
    saves, interval = _saves(steps, periods)
    kept = policy.keep_last + policy.keep_best
    if policy.keep_every:
        saved_for_good = math.lcm(policy.keep_every, policy.every)
        kept += steps // saved_for_good
    kept = min(kept, saves)
    most = min(kept + 1, saves) * checkpoint_bytes
    if policy.max_bytes is not None and checkpoint_bytes:
        room = max(1, policy.max_bytes // checkpoint_bytes - 1)
        kept, most = min(kept, room), min(most, max(policy.max_bytes, 2 * checkpoint_bytes))
    return CheckpointEstimate(checkpoint_bytes, saves, interval, kept, most)


def _saves(steps: int, periods: set[int]) -> tuple[int, float]:
    """How many multiples of any of `periods` there are up to `steps`, which counts whatever it
    is; and the steps between two of them."""
    shortest = min(periods)
    if all(period % shortest == 0 for period in periods):
        return math.ceil(steps / shortest), min(shortest, steps)
    marks = {mark for period in periods for mark in range(period, steps + 1, period)} | {steps}
    return len(marks), steps / len(marks)
