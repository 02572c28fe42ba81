"""Callbacks: the order of their hooks, a user's own in a real run, and unusable ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.cli import main
from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import build_job, explicit_job_dict, fingerprint, job_dict
from orchestrator.job.config.train import TrainJob
from orchestrator.storage import Storage
from orchestrator.tracking.server import mlflow_client
from orchestrator.training import callbacks as registry
from orchestrator.training.callbacks.base import Callback, CheckpointPart
from orchestrator.training.callbacks.checkpoint_schedule import CheckpointSchedule
from orchestrator.training.callbacks.clip_ledger import ClipLedger
from orchestrator.training.callbacks.custom import (
    HOOKS,
    CustomCallback,
    check_callbacks,
    make_custom_callbacks,
)
from orchestrator.training.callbacks.finite_features import FiniteFeatureCheck
from orchestrator.training.callbacks.first_step import FirstStepReport
from orchestrator.training.callbacks.interruptions import Interruptions
from orchestrator.training.callbacks.local_evaluation import LocalEvaluation
from orchestrator.training.control.control_signal import ControlSignal, LoopDecision
from orchestrator.training.control.stall import EVALUATING
from orchestrator.training.engine.spike_guard import TrainingDiverged
from orchestrator.training.trainer import Trainer
from orchestrator.training.worker import make_callbacks

JOB: dict[str, Any] = {
    "kind": "train",
    "name": "tiny",
    "data": {
        "source": "physics://mixed?clips=8&size=48&fps=8&seconds=2",
        "frames": 4,
        "fps": 4.0,
        "size": 32,
        "decode_threads": 1,
    },
    "model": {
        "encoder": {"kind": "vit", "dim": 24, "depth": 1, "heads": 2},
        "patch": 8,
        "predictor": {"depth": 1, "dim": 24, "heads": 2},
    },
    "objective": {"kind": "vjepa2", "ema": 0.9, "masks": [{"targets": 0.5, "context": 0.25}]},
    "optim": {"steps": 4, "lr": 1e-3, "warmup": 1},
    "scale": {"workers": 1, "global_batch": 2, "micro_batch": 2, "precision": "fp32"},
    "checkpoint": {"every": 2},
    "track": {"experiment": "tests", "register": "tiny", "every": 1, "pictures": 0},
}

HOOKS_FILE = """\
from pydantic import BaseModel

from orchestrator.training.callbacks.base import Callback, CheckpointPart

class Mine(Callback):
    class Config(BaseModel):
        every: int = 1

    def on_start(self, trainer):
        self.seen = trainer.resume_state.get("clips_seen", 0)

    def on_step_end(self, trainer, batch, result):
        self.seen += sum(len(micro.keys) for micro in batch.micro_batches)
        if trainer.step % self.config.every == 0:
            trainer.log("mine/twice_the_loss", 2 * result.loss)

    def on_save(self, trainer):
        return CheckpointPart(state={"clips_seen": self.seen})

    def on_end(self, trainer):
        trainer.log("mine/clips", self.seen)

class Failing(Callback):
    def on_step_end(self, trainer, batch, result):
        if trainer.step == 3:
            raise ValueError("no such thing\\nand more")

class TwoParameters(Callback):
    def on_step_end(self, trainer, result):
        pass

class Misspelled(Callback):
    def on_step_ends(self, trainer, batch, result):
        pass

class NoMethod(Callback):
    on_start = 3

class NoConfigTaken(Callback):
    def __init__(self):
        super().__init__()

class NoCallback:
    class Config(BaseModel):
        pass

def function(config):
    pass
"""


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The module of a user's callbacks, importable from the current folder."""
    (tmp_path / "mylab_hooks.py").write_text(HOOKS_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "mylab_hooks"
    sys.modules.pop("mylab_hooks", None)


def job_with(*callbacks: Any, **changes: Any) -> TrainJob:
    job = build_job({**JOB, **changes, "callbacks": list(callbacks)})
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


# -- callbacks of a job ---------------------------------------------------------------------


def test_a_job_names_callbacks_with_and_without_keys(hooks: str) -> None:
    job = job_with(f"{hooks}:Mine", {"kind": f"{hooks}:Mine", "every": "10"})
    first, second = make_custom_callbacks(job)
    assert (first.config.every, second.config.every) == (1, 10)
    assert first.name == f"{hooks}:Mine"
    assert build_job(job_dict(job)) == job == build_job(explicit_job_dict(job))


def test_callbacks_are_no_part_of_a_run_s_identity(hooks: str) -> None:
    assert fingerprint(job_with(f"{hooks}:Mine")) == fingerprint(build_job(JOB))


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        ("mylab_hooks:TwoParameters", "on_step_end(self, trainer, batch, result)"),
        ("mylab_hooks:Misspelled", "did you mean 'on_step_end'?"),
        ("mylab_hooks:NoMethod", "write on_start(self, trainer)"),
        ("mylab_hooks:NoConfigTaken", "NoConfigTaken(config)"),
        ("mylab_hooks:NoCallback", "it is no callback"),
        ("mylab_hooks:function", "attribute 'Config'"),
        ("mylab_hooks:Absent", "has no 'Absent'"),
        ("mylab_absent:Mine", "No module named 'mylab_absent'"),
        ({"kind": "mylab_hooks:Mine", "evry": 2}, "did you mean 'every'?"),
        ({"kind": "mylab_hooks:Failing", "every": 2}, "every"),
        ("weight-norms", "unknown callback 'weight-norms'"),
        ({"every": 3}, "kind: this key is required"),
        (3, "callbacks.0"),
    ],
)
def test_a_callback_that_cannot_be_used_is_one_clear_error(
    hooks: str, callback: Any, said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        check_callbacks(job_with(callback))
    text = str(caught.value)
    assert said in text
    assert "Traceback" not in text
    assert len(text.splitlines()) <= 2
    if isinstance(callback, str) and "absent" not in callback:
        assert callback.partition(":")[2] in text


def test_a_built_in_callback_is_one_entry_of_the_registry(
    hooks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "mine", f"{hooks}:Mine")
    check_callbacks(job_with("mine"))
    (made,) = make_custom_callbacks(job_with({"kind": "mine", "every": 3}))
    assert made.config.every == 3
    with pytest.raises(RequestError, match="did you mean 'mine'"):
        check_callbacks(job_with("mime"))
    with pytest.raises(RequestError, match="did you mean 'every'"):
        check_callbacks(job_with({"kind": "mine", "evry": 3}))


class Raising(Callback):
    """Raises in every hook."""

    def __getattribute__(self, name: str) -> Any:
        if name in HOOKS:
            raise ValueError("boom")
        return super().__getattribute__(name)


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook != "on_error"])
def test_an_error_in_a_hook_names_callback_and_hook(hook: str) -> None:
    guarded = CustomCallback("mylab:Raising", Raising())
    arguments = [None, None, None] if hook == "on_step_end" else [None]
    with pytest.raises(JobFailed) as caught:
        getattr(guarded, hook)(*arguments)
    assert caught.value.what == f"callback mylab:Raising failed in {hook}: ValueError: boom"
    assert "Traceback" in caught.value.details


def test_an_error_in_on_error_does_not_hide_the_first() -> None:
    calls: list[str] = []
    messages: list[str] = []
    raising = Recording("a", calls, raises_in="on_error")
    failing = Recording("b", calls, raises_in="on_step_end")
    with pytest.raises(RuntimeError, match="boom"):
        make_trainer(CustomCallback("mylab:A", raising), failing, messages=messages).run()
    assert messages == ["callback mylab:A failed in on_error: RuntimeError: boom"]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (CheckpointPart(state={"x": object()}), "not JSON serializable"),
        ({"x": 1}, "a CheckpointPart or None is wanted, not dict"),
    ],
)
def test_what_a_callback_saves_is_checked_at_once(part: Any, said: str) -> None:
    callback = Callback()
    callback.on_save = lambda trainer: part  # type: ignore[method-assign]
    with pytest.raises(JobFailed, match=f"mylab:A failed in on_save: TypeError: .*{said}"):
        CustomCallback("mylab:A", callback).on_save(cast(Any, None))


def test_a_writer_that_fails_names_the_callback() -> None:
    def write() -> None:
        raise OSError("no space")

    callback = Callback()
    callback.on_save = lambda trainer: CheckpointPart(before_commit=[write])  # type: ignore[method-assign]
    part = CustomCallback("mylab:A", callback).on_save(cast(Any, None))
    assert part is not None
    with pytest.raises(JobFailed, match="mylab:A failed in on_save"):
        part.before_commit[0]()


# -- in a real training ---------------------------------------------------------------------


@pytest.fixture
def train(
    hooks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the job with callbacks by the command line: exit code, stdout, stderr."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*callbacks: Any) -> tuple[int, str, str]:
        (tmp_path / "job.yaml").write_text(json.dumps({**JOB, "callbacks": callbacks}))
        argv = ["orchestrator", "run", "job.yaml", "--local", f"storage={tmp_path}/st"]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.mark.integration
def test_a_metric_of_ones_own_reaches_mlflow_also_after_a_failure(
    train: Callable[..., tuple[int, str, str]], hooks: str, tmp_path: Path
) -> None:
    mine = {"kind": f"{hooks}:Mine", "every": 2}
    code, _, err = train(mine, f"{hooks}:Failing")
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert f"callback {hooks}:Failing failed in on_step_end: ValueError: no such thing" in line
    assert "Traceback" not in err
    (kept,) = (tmp_path / "st" / "runs" / "tiny" / "errors").iterdir()
    assert "and more" in kept.read_text()

    code, _, err = train(mine)  # the same run goes on from step 2, without the failing one
    assert code == 0, err
    folder = Storage(f"{tmp_path}/st/runs/tiny")
    record = folder.read_json("run.json")
    client = mlflow_client(record["mlflow_uri"])
    history = client.get_metric_history
    twice = history(record["mlflow_run_id"], "mine/twice_the_loss")
    losses = {m.step: m.value for m in history(record["mlflow_run_id"], "train/loss")}
    assert {m.step: m.value for m in twice} == {step: 2 * losses[step] for step in (2, 4)}
    assert [m.value for m in history(record["mlflow_run_id"], "mine/clips")] == [8.0]
    assert folder.read_json("checkpoints/step-00000004/state.json")["clips_seen"] == 8
    config = folder.read_json("model/config.json")
    assert config["job"]["callbacks"] == []  # the model loads where mylab_hooks is not installed


@pytest.mark.integration
def test_a_bad_callback_starts_nothing(
    train: Callable[..., tuple[int, str, str]], hooks: str, tmp_path: Path
) -> None:
    code, _, err = train(f"{hooks}:TwoParameters")
    assert code == 2
    assert "mylab_hooks:TwoParameters" in err
    assert "the signature is on_step_end(self, trainer, batch, result)" in err
    assert not (tmp_path / "st").exists()


@pytest.mark.integration
@pytest.mark.parametrize("name", ["train/mine", "health/x", "a b!", "a/"])
def test_names_that_cannot_be_logged_are_refused(
    train: Callable[..., tuple[int, str, str]], tmp_path: Path, name: str
) -> None:
    (tmp_path / "mylab_names.py").write_text(
        "from orchestrator.training.callbacks.base import Callback\n"
        "class Logs(Callback):\n"
        "    def on_start(self, trainer):\n"
        f"        trainer.log({name!r}, 1.0)\n"
    )
    code, _, err = train("mylab_names:Logs")
    sys.modules.pop("mylab_names")
    assert code == 1
    assert "callback mylab_names:Logs failed in on_start: ValueError" in err
