"""What may interrupt a training: a wish to stop, and a node that is taken away.

Only rank 0 listens. Its word travels with the sums of a step, so that all ranks act after the
same step and no collective is added.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from orchestrator.training.control.heartbeat import Pulse
from orchestrator.training.distributed import Group

LOOK_EVERY_S = 1.0
_LOOK, _STOP = 1.0, 2.0

Turn = Literal["go on", "save", "stop"]


class Interruptions:
    """Asked before and after each step, on every rank."""

    def __init__(self, pulse: Pulse, group: Group, tell: Callable[[str], None]) -> None:
        self._pulse, self._group, self._tell = pulse, group, tell
        self._looked = time.monotonic()
        self._known: Any = None

    def word(self) -> float:
        """What this rank says with the coming step; 0 where it has nothing to say."""
        if not self._group.leads:
            return 0.0
        if self._pulse.stop_asked:
            return _STOP
        if self._group.exchange is not None and time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked = time.monotonic()
            return _LOOK
        return 0.0

    def turn(self, word: float) -> Turn:
        """What to do now; `word` is rank 0's, as every rank has it after the step."""
        if word == _STOP:
            return "stop"
        return "save" if word == _LOOK and self._taken_away() else "go on"

    def _taken_away(self) -> bool:
        """A node is being drained that was not the last time. Ray's call meets all ranks."""
        import ray.train

        info = ray.train.get_preemption_info()
        if info is None or info == self._known:
            return False
        self._known = info
        if self._group.leads:
            left = "soon"
            if info.deadline_ms is not None:
                left = f"in {max(0.0, info.deadline_ms / 1000 - time.time()):.0f} s"
            self._tell(f"the node of ranks {info.preempted_ranks} is taken away {left}: saving")
        return True
