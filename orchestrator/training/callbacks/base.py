"""The base class of what happens beside the training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from orchestrator.data.loader.batch import StepBatch
    from orchestrator.training.engine.step import StepResult
    from orchestrator.training.trainer import Trainer


@dataclass(frozen=True)
class CheckpointPart:
    """What a callback adds to the checkpoint that is being saved."""

    state: Mapping[str, Any] = field(default_factory=dict)
    """Entries of `state.json`, plain JSON; those of rank 0 count. After a restart they are in
    `trainer.resume_state`."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers by which `checkpoint.best` can rank checkpoints; those of rank 0 count."""

    before_commit: Sequence[Callable[[], None]] = ()
    """Called on the writer's thread, on every rank, before the checkpoint counts as complete."""


class Callback:
    """Something that happens beside the training step. Every hook does nothing until overridden.

    Order of the calls, the same on every rank:

        on_start(trainer)                         once, before the first batch is waited for
        on_step_begin(trainer)                    each step, when its batch has arrived
        on_step_end(trainer, batch, result)       each step, when the weights are updated
        on_save(trainer)                          when a checkpoint is due
        on_saved(trainer)                         when it has been handed to its writer
        on_end(trainer)                           once, when every checkpoint is complete
        on_error(trainer, error)                  once, instead of on_end

    Callbacks are called in the order of `training/worker.py: make_callbacks`, your own in the
    order of the job file, between the profiler and the check of the last step. `on_end` and
    `on_error` go in the reverse order, like the ends of nested `with` blocks: metrics can still be
    logged in them. If the `on_end` of one fails, those after it get `on_error`.

    Each rank has its own instance, made by `Name(config)` in each attempt; `trainer.group` tells
    the rank. A hook must not wait for other ranks unless it is called on all of them.
    """

    class Config(BaseModel, extra="forbid", frozen=True):
        """The keys beside `kind` in the job file. Override it to have some."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def on_start(self, trainer: Trainer) -> None:
        """The model is built and resumed; `trainer.step` steps are done."""

    def on_step_begin(self, trainer: Trainer) -> None:
        """A step is about to be taken; `trainer.step` steps are done."""

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        """A step is done, and `trainer.step` counts it.

        Args:
            batch: this rank's micro-batches: video uint8 [B, T, H, W, 3] on the CPU, weights [B].
            result: loss, gradient norm and learning rate of the whole step; features [B, n, dim]
                of this rank's first micro-batch.
        """

    def on_save(self, trainer: Trainer) -> CheckpointPart | None:
        """A checkpoint of `trainer.step` is about to be taken. Gives what it holds as well."""
        return None

    def on_saved(self, trainer: Trainer) -> None:
        """The checkpoint is being written in the background, or is complete if the training stops.

        `trainer.checkpoints.complete_names()` tells which are.
        """

    def on_end(self, trainer: Trainer) -> None:
        """The last step is done, or the training was stopped; every checkpoint is complete."""

    def on_error(self, trainer: Trainer, error: BaseException) -> None:
        """The training ends with `error`, or this attempt at it. Other ranks may be gone."""
