"""A trainer with a fake engine and fake checkpoints, for the tests of callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from orchestrator.job import build_job
from orchestrator.job.config.train import TrainJob
from orchestrator.training.callbacks.base import Callback, CheckpointPart
from orchestrator.training.callbacks.interruptions import Interruptions
from orchestrator.training.control.control_signal import ControlSignal
from orchestrator.training.trainer import Trainer
from tests.support.jobs import tiny_train_job


def job_with(*callbacks: Any, **changes: Any) -> TrainJob:
    job = build_job({**tiny_train_job(), **changes, "callbacks": list(callbacks)})
    assert isinstance(job, TrainJob)
    return job


# -- the order of the hooks -----------------------------------------------------------------


@dataclass
class FakeEngine:
    """Counts steps; the control signal comes back as it was given."""

    step: int = 0
    signals: list[ControlSignal] = field(default_factory=list)
    spike_guard: Any = field(
        default_factory=lambda: SimpleNamespace(consecutive_skipped=0, state_dict=dict)
    )

    def train_step(self, micro: list[Any], control: ControlSignal) -> Any:
        self.step += 1
        self.signals.append(control)
        return SimpleNamespace(control=control)

    def take_snapshot(self) -> int:
        return self.step


class FakeCheckpoints:
    def __init__(self) -> None:
        self.saved: list[tuple[int, dict[str, Any], bool]] = []

    def save(
        self,
        snapshot: int,
        state: dict[str, Any],
        metrics: dict[str, float],
        wait: bool,
        before_commit: list[Callable[[], None]],
    ) -> None:
        for write in before_commit:
            write()
        self.saved.append((snapshot, state, wait))

    def wait(self) -> None: ...


class Recording(Callback):
    """Notes each hook; raises in one where it is told to."""

    def __init__(self, name: str, calls: list[str], raises_in: str = "") -> None:
        super().__init__()
        self._name, self._calls, self._raises_in = name, calls, raises_in

    def _note(self, hook: str, trainer: Trainer) -> None:
        self._calls.append(f"{self._name}.{hook} {trainer.step}")
        if hook == self._raises_in:
            raise RuntimeError("boom")

    def on_start(self, trainer: Trainer) -> None:
        self._note("on_start", trainer)

    def on_step_begin(self, trainer: Trainer) -> None:
        self._note("on_step_begin", trainer)

    def on_step_end(self, trainer: Trainer, batch: Any, result: Any) -> None:
        self._note("on_step_end", trainer)

    def on_save(self, trainer: Trainer) -> CheckpointPart:
        self._note("on_save", trainer)
        return CheckpointPart(
            {self._name: trainer.step},
            before_commit=[lambda: self._calls.append(f"{self._name} writes")],
        )

    def on_saved(self, trainer: Trainer) -> None:
        self._note("on_saved", trainer)

    def on_end(self, trainer: Trainer) -> None:
        self._note("on_end", trainer)

    def on_error(self, trainer: Trainer, error: BaseException) -> None:
        self._note("on_error", trainer)


def make_trainer(
    *callbacks: Callback, steps: int = 2, messages: list[str] | None = None
) -> Trainer:
    job = job_with(optim={"steps": steps}, checkpoint={"every": steps})
    batches = [SimpleNamespace(micro_batches=[], step=step) for step in range(steps)]
    noted = messages if messages is not None else []
    parts: Any = {
        "engine": FakeEngine(),
        "data_loader": batches,
        "checkpoints": FakeCheckpoints(),
        "group": SimpleNamespace(is_main=True, broadcast=None),
        "run_folder": None,
        "coordinator": SimpleNamespace(notify=noted.append),
        "heartbeat": SimpleNamespace(set_phase=lambda step, phase: None, stop_requested=False),
        "recorder": None,
    }
    return Trainer(
        job=job, callbacks=callbacks, checkpoint_state={"dataset": "d"}, resume_state={}, **parts
    )


def saved(trainer: Trainer) -> list[tuple[int, dict[str, Any], bool]]:
    return cast(FakeCheckpoints, trainer.checkpoints).saved


def interruptions(trainer: Trainer, stop_after_step: int | None = None) -> Interruptions:
    return Interruptions(trainer.heartbeat, trainer.group, print, stop_after_step)
