"""The training loop of one rank: batch, step, callbacks, checkpoint; until the last step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from orchestrator.data.loader.batch import StepBatch
from orchestrator.data.loader.data_loader import ClipDataLoader
from orchestrator.errors import JobFailed
from orchestrator.job import TrainJob
from orchestrator.storage import Storage
from orchestrator.training.callbacks.base import Callback
from orchestrator.training.callbacks.recorder import Recorder
from orchestrator.training.checkpoints.manager import DOCUMENT_KEYS, CheckpointManager
from orchestrator.training.control.control_signal import ControlSignal
from orchestrator.training.control.coordinator import RunCoordinator
from orchestrator.training.control.heartbeat import HeartbeatThread
from orchestrator.training.distributed import DistributedContext
from orchestrator.training.engine.engine import Engine


@dataclass(kw_only=True)
class Trainer:
    """Trains from the step that the engine has resumed at to the last. Every rank runs one.

    The heartbeat is told each phase by the loop itself: it beats before a trainer exists and after.
    """

    job: TrainJob
    engine: Engine
    data_loader: ClipDataLoader
    checkpoints: CheckpointManager
    group: DistributedContext
    run_folder: Storage
    coordinator: RunCoordinator
    """`notify(text)` shows a line at the terminal."""

    heartbeat: HeartbeatThread
    recorder: Recorder
    callbacks: Sequence[Callback]
    """In the order in which they are called; the recorder is one of them."""

    checkpoint_state: dict[str, Any]
    """What every checkpoint's `state.json` holds beside the training's own state."""

    resume_state: dict[str, Any]
    """`state.json` of the checkpoint that was resumed from; empty where there was none."""

    control_signal: ControlSignal = field(default=ControlSignal.NONE, init=False)
    """What this rank tells all ranks with the coming step; only rank 0's counts."""

    save_requested: bool = field(default=False, init=False)
    stop_requested: bool = field(default=False, init=False)
    _wait_for_save: bool = field(default=False, init=False)
    start_step: int = field(init=False)
    """Optimizer steps that were done when this attempt began."""

    def __post_init__(self) -> None:
        self.start_step = self.engine.step

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.engine.step

    def run(self) -> None:
        """Train to the last step, or until a stop is requested; then every checkpoint is complete.

        Raises:
            TrainingDiverged: on all ranks at once.
            JobFailed: a checkpoint could not be written, or a user's callback raised.
        """
        with ExitStack() as stack:
            for callback in self.callbacks:
                stack.push(self._ending(callback))
                callback.on_start(self)
            self._train()
            self.set_phase("saving")
            self.checkpoints.wait()

    def _train(self) -> None:
        self.set_phase("data")
        for batch in self.data_loader:
            self.set_phase("step")
            self._train_step(batch)
            if self.save_requested:
                self._save()
            if self.stop_requested:
                return
            self.set_phase("data")

    def _train_step(self, batch: StepBatch) -> None:
        for callback in self.callbacks:
            callback.on_step_begin(self)
        result = self.engine.train_step(batch.micro_batches, self.control_signal)
        for callback in self.callbacks:
            callback.on_step_end(self, batch, result)

    def log(self, name: str, value: float) -> None:
        """Log a metric to MLflow at this step. Rank 0 logs; on other ranks it does nothing.

        The first value of a name at a step counts. A value that is not finite is left out.

        Raises:
            ValueError: MLflow takes no such name, or it belongs to the trainer's own metrics.
        """
        self.recorder.log(name, float(value))

    def request_save(self, *, wait: bool = False) -> None:
        """Save a checkpoint after this step; `wait` until it is complete before the next one.

        All ranks must call it after the same step.
        """
        self.save_requested = True
        self._wait_for_save |= wait

    def request_stop(self) -> None:
        """Save a checkpoint after this step and end. All ranks must call it after the same step."""
        self.stop_requested = True
        self.request_save(wait=True)

    def set_phase(self, phase: str) -> None:
        """What this rank does from now on; its heartbeats tell the driver."""
        self.heartbeat.set_phase(self.step, phase)

    def _save(self) -> None:
        self.set_phase("saving")
        state = {
            **self.checkpoint_state,
            "step": self.step,
            "position": self.step * self.job.scale.global_batch,
            "recent_losses": self.engine.spike_guard.state_dict(),
        }
        metrics: dict[str, float] = {}
        before_commit: list[Callable[[], None]] = []
        for callback in self.callbacks:
            part = callback.on_save(self)
            if part is not None:
                taken = (part.state.keys() & {*state, *DOCUMENT_KEYS}) | (
                    part.metrics.keys() & metrics.keys()
                )
                if taken:
                    raise JobFailed(
                        f"callback {callback.name} saves what is saved already:"
                        f" {', '.join(sorted(taken))}",
                        where=f"step {self.step}",
                        hint="give its entries names of their own",
                    )
                state |= part.state
                metrics |= part.metrics
                before_commit += part.before_commit
        wait, self.save_requested, self._wait_for_save = self._wait_for_save, False, False
        self.checkpoints.save(
            self.engine.take_snapshot(), state, metrics, wait=wait, before_commit=before_commit
        )
        for callback in self.callbacks:
            callback.on_saved(self)

    def _ending(self, callback: Callback) -> Callable[..., None]:
        """Calls `on_end`, or `on_error` where an error ends the `with` block it is pushed to."""

        def end(
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            if error is None:
                callback.on_end(self)
            else:
                callback.on_error(self, error)

        return end
