"""Evaluation during a local run: between steps, in the same process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.training.callbacks.base import Callback
from orchestrator.training.callbacks.checkpoint_schedule import is_checkpoint_due
from orchestrator.training.control.stall import EVALUATING

if TYPE_CHECKING:
    from orchestrator.training.trainer import Trainer


class LocalEvaluation(Callback):
    """Evaluates each checkpoint that is due, once it is complete; the driver evaluates the last.

    Args:
        evaluate_due: evaluates the newest checkpoint, where an evaluation of it is due.
    """

    def __init__(self, evaluate_due: Callable[[], None]) -> None:
        super().__init__()
        self._evaluate_due = evaluate_due

    def on_saved(self, trainer: Trainer) -> None:
        """Wait for the checkpoint and evaluate it."""
        last = trainer.step >= trainer.job.optim.steps
        if trainer.stop_requested or last or not is_checkpoint_due(trainer):
            return
        trainer.set_phase(EVALUATING)
        trainer.checkpoints.wait()
        self._evaluate_due()
