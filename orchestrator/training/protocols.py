"""What a training is given from outside: who evaluates on the way, and when workers may run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from orchestrator.job import TrainJob
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tracking.run import RunRef


class InTrainingEvaluations(Protocol):
    """Evaluates checkpoints during a training (`evaluation/in_training/scheduler.py`)."""

    def running(self) -> AbstractContextManager[None]:
        """Within it checkpoints are judged; left early, what goes on is given up."""

    def evaluate_due(self) -> None:
        """In a local run: judge what is due, now."""

    def cancel(self) -> None:
        """Give up what goes on; the next launch judges it."""

    def finish(self) -> dict[str, float]:
        """Wait for what is still to be judged; gives the metrics of the last step."""

    @property
    def cancelled(self) -> bool:
        """Whether the last step was left to the next launch by `cancel`."""


class WorkerSlot(Protocol):
    """When workers may start, and when they shall end: the trials of a sweep have one."""

    def acquired(self) -> AbstractContextManager[None]:
        """Within it the workers run.

        Raises:
            Stopped: they shall not start any more.
        """

    def should_stop(self) -> bool:
        """Whether the training shall be saved and ended; asked twice a second."""


class UnlimitedSlot:
    """Workers start at once, and nobody but a signal ends them."""

    def acquired(self) -> AbstractContextManager[None]:
        """Nothing is waited for."""
        return nullcontext()

    def should_stop(self) -> bool:
        """Never."""
        return False


OpenEvaluations = Callable[
    [TrainJob, Storage, RunRef, Progress, int, float | None], InTrainingEvaluations
]
