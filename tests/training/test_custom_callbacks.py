"""A user's own callback: in a real run, unusable, and raising."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.cli import main
from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import build_job, explicit_job_dict, fingerprint, job_dict
from orchestrator.storage import Storage
from orchestrator.tracking.server import mlflow_client
from orchestrator.training import callbacks as registry
from orchestrator.training.callbacks.base import Callback, CheckpointPart
from orchestrator.training.callbacks.custom import (
    HOOKS,
    CustomCallback,
    check_callbacks,
    make_custom_callbacks,
)
from tests.support.jobs import tiny_train_job
from tests.support.trainer import Recording, job_with, make_trainer

JOB = tiny_train_job()

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
