"""A model whose features are not finite after the last step is no result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.data.loader.batch import StepBatch
from orchestrator.training.callbacks.base import Callback
from orchestrator.training.callbacks.recorder import Recorder
from orchestrator.training.engine.spike_guard import TrainingDiverged
from orchestrator.training.engine.step import StepResult

if TYPE_CHECKING:
    from orchestrator.training.trainer import Trainer


class FiniteFeatureCheck(Callback):
    """Checks the features of the last step; rank 0 sees them and tells the others: a collective."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        """Check, after the last step.

        Raises:
            TrainingDiverged: on all ranks at once.
        """
        if trainer.step != trainer.job.optim.steps:
            return
        not_finite = self._recorder.features_not_finite()
        if trainer.group.broadcast is not None:
            not_finite = trainer.group.broadcast(not_finite)
        if not_finite:
            raise TrainingDiverged(
                "the features of the last step are not finite",
                where=f"step {trainer.step}",
                hint="lower optim.lr, set optim.clip, or train in fp32; what is saved stands, and"
                " --fresh begins anew",
            )
