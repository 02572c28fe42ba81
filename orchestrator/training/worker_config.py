"""What the driver hands to every rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.data.packing.prepare import PreparedData
from orchestrator.job import TrainJob
from orchestrator.storage import Storage
from orchestrator.tracking.run import RunRef
from orchestrator.training.control.coordinator import RunCoordinator


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a rank needs to know; picklable, the same for all ranks."""

    job: TrainJob
    run_folder: Storage
    prepared: PreparedData
    tracking: RunRef
    coordinator: RunCoordinator
    launch_number: int
    """How often a driver has begun or continued this run."""

    checkpoint_state: dict[str, Any]
    """What a checkpoint's state.json carries beside step and position."""

    profile: bool = False
    stop_after_step: int | None = None
    """Save and stop when so many steps are done in all, before the last."""

    initial_model: Storage | None = None
    """The model that is begun with; None: random weights."""

    evaluate_due: Callable[[], None] | None = None
    """In a local run: evaluates the newest checkpoint, where an evaluation of it is due."""
