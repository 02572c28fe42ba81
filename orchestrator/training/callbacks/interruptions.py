"""What may interrupt a training: a request to stop, and a node that is taken away.

Only rank 0 listens. Its signal travels with the sums of a step, so that all ranks act after the
same step and no collective is added.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.training.callbacks.base import Callback
from orchestrator.training.control.control_signal import ControlSignal, LoopDecision
from orchestrator.training.control.heartbeat import HeartbeatThread
from orchestrator.training.distributed import DistributedContext

if TYPE_CHECKING:
    from orchestrator.data.loader.batch import StepBatch
    from orchestrator.training.engine.step import StepResult
    from orchestrator.training.trainer import Trainer

PREEMPTION_CHECK_INTERVAL_S = 1.0


class Interruptions(Callback):
    """Asked before and after each step, on every rank.

    Args:
        stop_after_step: save and stop when so many steps are done; None: go on to the last.
    """

    def __init__(
        self,
        heartbeat: HeartbeatThread,
        group: DistributedContext,
        notify: Callable[[str], None],
        stop_after_step: int | None = None,
    ) -> None:
        super().__init__()
        self._heartbeat, self._group, self._notify = heartbeat, group, notify
        self._stop_after_step = stop_after_step
        self._checked_at = time.monotonic()
        self._last_preemption: Any = None

    def on_step_begin(self, trainer: Trainer) -> None:
        """Say with the coming step what rank 0 has heard."""
        trainer.control_signal = self.control_signal()

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        """Request what the decision is. Collective where rank 0 asked for a preemption check."""
        decision = self.decide(result.control)
        if decision is LoopDecision.STOP or trainer.step == self._stop_after_step:
            trainer.request_stop()
        elif decision is LoopDecision.SAVE:
            trainer.request_save(wait=True)

    def control_signal(self) -> ControlSignal:
        """What this rank tells all ranks with the coming step."""
        if not self._group.is_main:
            return ControlSignal.NONE
        if self._heartbeat.stop_requested:
            return ControlSignal.STOP
        if (
            self._group.broadcast is not None
            and time.monotonic() - self._checked_at > PREEMPTION_CHECK_INTERVAL_S
        ):
            self._checked_at = time.monotonic()
            return ControlSignal.CHECK_PREEMPTION
        return ControlSignal.NONE

    def decide(self, signal: ControlSignal) -> LoopDecision:
        """What to do now; `signal` is rank 0's, as every rank has it after the step."""
        if signal is ControlSignal.STOP:
            return LoopDecision.STOP
        if signal is ControlSignal.CHECK_PREEMPTION and self._is_preempted():
            return LoopDecision.SAVE
        return LoopDecision.CONTINUE

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
            self._notify(f"the node of ranks {info.preempted_ranks} is taken away {left}: saving")
        return True
