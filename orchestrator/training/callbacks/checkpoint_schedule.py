"""When a checkpoint is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.data.loader.batch import StepBatch
from orchestrator.training.callbacks.base import Callback
from orchestrator.training.engine.step import StepResult

if TYPE_CHECKING:
    from orchestrator.training.trainer import Trainer


def is_checkpoint_due(trainer: Trainer) -> bool:
    """Whether the job's schedule wants a checkpoint of this step, and its state is sound."""
    # While steps are skipped the state is that of the checkpoint before: the way back.
    skipping = trainer.engine.spike_guard.consecutive_skipped
    return trainer.job.is_checkpoint_step(trainer.step) and not skipping


class CheckpointSchedule(Callback):
    """Requests a checkpoint at the steps of `checkpoint.every` and `evaluate`, and at the last."""

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        """Request one where it is due."""
        if is_checkpoint_due(trainer) or trainer.step == trainer.job.optim.steps:
            trainer.request_save()
