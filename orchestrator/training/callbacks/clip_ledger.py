"""Every clip that entered a step is noted in the run's ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.data.auditing.clip_ledger import ClipLedgerWriter
from orchestrator.data.loader.batch import StepBatch
from orchestrator.training.callbacks.base import Callback, CheckpointPart
from orchestrator.training.engine.step import StepResult

if TYPE_CHECKING:
    from orchestrator.training.trainer import Trainer


class ClipLedger(Callback):
    """Notes each micro-batch; what was noted is on the disk before a checkpoint is complete."""

    def __init__(self, writer: ClipLedgerWriter) -> None:
        super().__init__()
        self._writer = writer

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        """Note the clips of this rank."""
        for micro in batch.micro_batches:
            self._writer.append(batch.step, micro)

    def on_save(self, trainer: Trainer) -> CheckpointPart:
        """Hand over what was noted since the last checkpoint."""
        return CheckpointPart(before_commit=(self._writer.flush_later(),))
