"""Callbacks of the trainer: the order of their hooks, and what the built-in ones do."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.errors import JobFailed
from orchestrator.storage import Storage
from orchestrator.training.callbacks.base import Callback
from orchestrator.training.callbacks.checkpoint_schedule import CheckpointSchedule
from orchestrator.training.callbacks.clip_ledger import ClipLedger
from orchestrator.training.callbacks.finite_features import FiniteFeatureCheck
from orchestrator.training.callbacks.first_step import FirstStepReport
from orchestrator.training.callbacks.interruptions import Interruptions
from orchestrator.training.callbacks.local_evaluation import LocalEvaluation
from orchestrator.training.control.control_signal import ControlSignal, LoopDecision
from orchestrator.training.control.stall import EVALUATING
from orchestrator.training.engine.spike_guard import TrainingDiverged
from orchestrator.training.worker import make_callbacks
from tests.support.trainer import (
    Recording,
    interruptions,
    job_with,
    make_trainer,
    saved,
)


def test_hooks_are_called_in_order_and_ended_in_the_reverse_order() -> None:
    calls: list[str] = []
    trainer = make_trainer(Recording("a", calls), CheckpointSchedule(), Recording("b", calls))
    trainer.run()
    assert calls == [
        "a.on_start 0", "b.on_start 0",
        "a.on_step_begin 0", "b.on_step_begin 0", "a.on_step_end 1", "b.on_step_end 1",
        "a.on_step_begin 1", "b.on_step_begin 1", "a.on_step_end 2", "b.on_step_end 2",
        "a.on_save 2", "b.on_save 2", "a writes", "b writes", "a.on_saved 2", "b.on_saved 2",
        "b.on_end 2", "a.on_end 2",
    ]  # fmt: skip
    ((step, state, wait),) = saved(trainer)
    assert (step, wait) == (2, False)
    assert (state["step"], state["a"], state["b"], state["dataset"]) == (2, 2, 2, "d")


@pytest.mark.parametrize("hook", ["on_step_begin", "on_step_end", "on_save", "on_saved"])
def test_an_error_reaches_every_callback_and_then_the_caller(hook: str) -> None:
    calls: list[str] = []
    first, second = Recording("a", calls), Recording("b", calls, raises_in=hook)
    with pytest.raises(RuntimeError, match="boom"):
        make_trainer(first, second, CheckpointSchedule()).run()
    assert [call.split()[0] for call in calls[-2:]] == ["b.on_error", "a.on_error"]
    assert not any("on_end" in call for call in calls)


def test_callbacks_that_were_never_started_are_not_ended() -> None:
    calls: list[str] = []
    first, second = Recording("a", calls, raises_in="on_start"), Recording("b", calls)
    with pytest.raises(RuntimeError):
        make_trainer(first, second).run()
    assert calls == ["a.on_start 0", "a.on_error 0"]


def test_an_on_end_that_raises_turns_the_ends_that_follow_into_errors() -> None:
    calls: list[str] = []
    first, second = Recording("a", calls), Recording("b", calls, raises_in="on_end")
    with pytest.raises(RuntimeError):
        make_trainer(first, second, CheckpointSchedule()).run()
    assert calls[-2:] == ["b.on_end 2", "a.on_error 2"]


def test_a_request_to_stop_saves_waits_and_ends() -> None:
    calls: list[str] = []
    trainer = make_trainer(Recording("a", calls), steps=9)
    trainer.callbacks = [*trainer.callbacks, interruptions(trainer, stop_after_step=3)]
    trainer.run()
    ((step, _, wait),) = saved(trainer)
    assert (trainer.step, step, wait) == (3, 3, True)
    assert calls[-1] == "a.on_end 3"


def test_while_steps_are_skipped_nothing_is_saved() -> None:
    trainer = make_trainer(CheckpointSchedule(), steps=3)
    trainer.job = job_with(optim={"steps": 4}, checkpoint={"every": 1})
    trainer.engine.spike_guard.consecutive_skipped = 1
    trainer.run()
    assert saved(trainer) == []


def test_two_callbacks_cannot_save_one_entry() -> None:
    calls: list[str] = []
    for name in ("recent_losses", "world"):
        with pytest.raises(JobFailed, match=f"Recording saves what is saved already: {name}"):
            make_trainer(Recording(name, calls), CheckpointSchedule()).run()


@pytest.mark.parametrize(
    ("step", "finite", "raises"), [(1, False, False), (2, True, False), (2, False, True)]
)
def test_features_that_are_not_finite_after_the_last_step_are_refused(
    step: int, finite: bool, raises: bool
) -> None:
    trainer = make_trainer(steps=2)
    cast(Any, trainer.engine).step = step
    check = FiniteFeatureCheck(cast(Any, SimpleNamespace(features_not_finite=lambda: not finite)))
    with pytest.raises(TrainingDiverged) if raises else nullcontext():
        check.on_step_end(trainer, cast(Any, None), cast(Any, None))


def test_the_verdict_of_rank_0_on_features_counts_on_every_rank() -> None:
    trainer = make_trainer(steps=1)
    cast(Any, trainer.engine).step = 1
    cast(Any, trainer.group).broadcast = lambda mine: True
    check = FiniteFeatureCheck(cast(Any, SimpleNamespace(features_not_finite=lambda: False)))
    with pytest.raises(TrainingDiverged, match="not finite"):
        check.on_step_end(trainer, cast(Any, None), cast(Any, None))


def test_a_local_run_evaluates_what_is_due_but_not_the_last_step_nor_when_it_stops() -> None:
    evaluated: list[int] = []
    trainer = make_trainer(steps=6)
    trainer.job = job_with(optim={"steps": 6}, checkpoint={"every": 2})
    trainer.callbacks = [
        CheckpointSchedule(), LocalEvaluation(lambda: evaluated.append(trainer.step)),
    ]  # fmt: skip
    trainer.run()
    assert evaluated == [2, 4]
    assert [step for step, *_ in saved(trainer)] == [2, 4, 6]

    evaluated.clear()
    stopped = make_trainer(steps=6)
    stopped.job = trainer.job
    stopped.callbacks = [
        interruptions(stopped, stop_after_step=4), CheckpointSchedule(),
        LocalEvaluation(lambda: evaluated.append(stopped.step)),
    ]  # fmt: skip
    stopped.run()
    assert evaluated == [2]


def test_the_heartbeat_is_told_each_phase() -> None:
    phases: list[tuple[int, str]] = []
    trainer = make_trainer(steps=4)
    trainer.job = job_with(optim={"steps": 4}, checkpoint={"every": 2})
    cast(Any, trainer.heartbeat).set_phase = lambda step, phase: phases.append((step, phase))
    trainer.callbacks = [CheckpointSchedule(), LocalEvaluation(lambda: None)]
    trainer.run()
    assert phases == [
        (0, "data"), (0, "step"), (1, "data"), (1, "step"), (2, "saving"), (2, EVALUATING),
        (2, "data"), (2, "step"), (3, "data"), (3, "step"), (4, "saving"),
        (4, "data"), (4, "saving"),
    ]  # fmt: skip


def test_a_run_s_callbacks_stand_in_the_documented_order(tmp_path: Path) -> None:
    trainer = make_trainer()
    config: Any = SimpleNamespace(
        run_folder=Storage(str(tmp_path)),
        coordinator=trainer.coordinator,
        stop_after_step=None,
        evaluate_due=lambda: None,
    )
    group: Any = SimpleNamespace(rank=0, is_main=True, broadcast=None)
    recorder: Any = Callback()
    mine = Recording("mine", [])
    made = make_callbacks(config, group, trainer.heartbeat, "0001-0001", recorder, [mine])
    assert [type(one) for one in made] == [
        ClipLedger, FirstStepReport, Callback, Recording, FiniteFeatureCheck, Interruptions,
        CheckpointSchedule, LocalEvaluation,
    ]  # fmt: skip
    config.evaluate_due = None
    assert len(make_callbacks(config, group, trainer.heartbeat, "a", recorder, [])) == 6


# -- control signals ------------------------------------------------------------------------


@pytest.mark.parametrize("signal", list(ControlSignal))
@pytest.mark.parametrize("world", [1, 3, 7, 1000])
def test_a_control_signal_survives_the_mean_over_ranks(signal: ControlSignal, world: int) -> None:
    total = sum([signal.encode() * world, *[ControlSignal.NONE.encode()] * (world - 1)])
    assert ControlSignal.decode(total / world) is signal


def test_rank_0_alone_speaks_and_a_stop_comes_first() -> None:
    trainer = make_trainer()
    listener = interruptions(trainer)
    assert listener.control_signal() is ControlSignal.NONE
    cast(Any, trainer.heartbeat).stop_requested = True
    assert listener.control_signal() is ControlSignal.STOP
    assert listener.decide(ControlSignal.STOP) is LoopDecision.STOP
    assert listener.decide(ControlSignal.NONE) is LoopDecision.CONTINUE
    cast(Any, trainer.group).is_main = False
    assert listener.control_signal() is ControlSignal.NONE


@pytest.mark.parametrize("preempted", [True, False])
def test_a_preempted_node_means_save(preempted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = interruptions(make_trainer())
    monkeypatch.setattr(listener, "_is_preempted", lambda: preempted)
    expected = LoopDecision.SAVE if preempted else LoopDecision.CONTINUE
    assert listener.decide(ControlSignal.CHECK_PREEMPTION) is expected
