"""What may interrupt a training: a wish to stop, and a node that is taken away.

Only rank 0 listens. Its word travels with the sums of a step, so that all ranks act after the
same step and no collective is added.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from orchestrator.training.control.heartbeat import HeartbeatThread
from orchestrator.training.distributed import DistributedContext

PREEMPTION_CHECK_INTERVAL_S = 1.0
CHECK_PREEMPTION, STOP = 1.0, 2.0

LoopDecision = Literal["go on", "save", "stop"]


class Interruptions:
    """Asked before and after each step, on every rank."""

    def __init__(
        self, pulse: HeartbeatThread, group: DistributedContext, notify: Callable[[str], None]
    ) -> None:
        self._pulse, self._group, self._tell = pulse, group, notify
        self._checked_at = time.monotonic()
        self._last_preemption: Any = None

    def control_signal(self) -> float:
        """What this rank says with the coming step; 0 where it has nothing to say."""
        if not self._group.is_main:
            return 0.0
        if self._pulse.stop_requested:
            return STOP
        if (
            self._group.broadcast is not None
            and time.monotonic() - self._checked_at > PREEMPTION_CHECK_INTERVAL_S
        ):
            self._checked_at = time.monotonic()
            return CHECK_PREEMPTION
        return 0.0

    def decide(self, control: float) -> LoopDecision:
        """What to do now; `control` is rank 0's, as every rank has it after the step."""
        if control == STOP:
            return "stop"
        return "save" if control == CHECK_PREEMPTION and self._is_preempted() else "go on"

    def _is_preempted(self) -> bool:
        """A node is being drained that was not the last time. Ray's call meets all ranks."""
        import ray.train

        info = ray.train.get_preemption_info()
        if info is None or info == self._last_preemption:
            return False
        self._last_preemption = info
        if self._group.is_main:
            left = "soon"
            if info.deadline_ms is not None:
                left = f"in {max(0.0, info.deadline_ms / 1000 - time.time()):.0f} s"
            self._tell(f"the node of ranks {info.preempted_ranks} is taken away {left}: saving")
        return True
