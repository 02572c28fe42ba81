"""The driver is told when an attempt has taken its first step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orchestrator.data.loader.batch import StepBatch
from orchestrator.training.callbacks.base import Callback
from orchestrator.training.engine.step import StepResult

if TYPE_CHECKING:
    from orchestrator.training.trainer import Trainer


class FirstStepReport(Callback):
    """Rank 0 reports the time of the attempt's first step: the workers are known to run."""

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        """Report, once."""
        if trainer.group.is_main and trainer.step == trainer.start_step + 1:
            trainer.coordinator.report_first_step(time.time())
