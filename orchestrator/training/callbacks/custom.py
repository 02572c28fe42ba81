"""The callbacks that a job names: imported, checked before anything starts, and guarded."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.errors import JobFailed, RequestError, suggest
from orchestrator.job import TrainJob
from orchestrator.job.config.base import CustomComponent
from orchestrator.job.config.callbacks import AnyCallback
from orchestrator.job.loading.custom_components import component_config, import_component
from orchestrator.training import callbacks as registry
from orchestrator.training.callbacks.base import Callback, CheckpointPart
from orchestrator.unexpected import format_traceback, one_line

if TYPE_CHECKING:
    from orchestrator.data.loader.batch import StepBatch
    from orchestrator.training.engine.step import StepResult
    from orchestrator.training.trainer import Trainer

HOOKS = ("on_start", "on_step_begin", "on_step_end", "on_save", "on_saved", "on_end", "on_error")
BASE = f"{Callback.__module__}:{Callback.__name__}"


def check_callbacks(job: TrainJob) -> None:
    """Import every callback of a job and compare its hooks with those of `Callback`.

    Raises:
        RequestError: one cannot be used; the message names it, the method and its signature.
    """
    for i, config in enumerate(job.callbacks):
        _callback_class(config, f"callbacks.{i}")


def make_custom_callbacks(job: TrainJob) -> list[Callback]:
    """The callbacks of a job, made anew, each guarded by `CustomCallback`.

    Raises:
        RequestError: one cannot be used.
        JobFailed: a constructor raised.
    """
    made: list[Callback] = []
    for i, config in enumerate(job.callbacks):
        kind = _callback_class(config, f"callbacks.{i}")
        with _named_error(config.kind, "__init__"):
            made.append(CustomCallback(config.kind, kind(component_config(_component(config)))))
    return made


class CustomCallback(Callback):
    """Passes every hook on to a user's callback; an error in it ends the job and names the hook.

    Args:
        path: the callback as the job names it.
    """

    def __init__(self, path: str, callback: Callback) -> None:
        super().__init__(callback.config)
        self._path, self._callback = path, callback

    @property
    def name(self) -> str:
        """As the job file has it."""
        return self._path

    def on_start(self, trainer: Trainer) -> None:
        with _named_error(self._path, "on_start"):
            self._callback.on_start(trainer)

    def on_step_begin(self, trainer: Trainer) -> None:
        with _named_error(self._path, "on_step_begin"):
            self._callback.on_step_begin(trainer)

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        with _named_error(self._path, "on_step_end"):
            self._callback.on_step_end(trainer, batch, result)

    def on_save(self, trainer: Trainer) -> CheckpointPart | None:
        with _named_error(self._path, "on_save"):
            part = self._callback.on_save(trainer)
            if part is None:
                return None
            if not isinstance(part, CheckpointPart):
                raise TypeError(f"a CheckpointPart or None is wanted, not {type(part).__name__}")
            json.dumps(dict(part.state))  # state.json is written much later, on another thread
            writers = [partial(self._write, write) for write in part.before_commit]
        return CheckpointPart(part.state, part.metrics, writers)

    def _write(self, write: Callable[[], None]) -> None:
        with _named_error(self._path, "on_save (before_commit)"):
            write()

    def on_saved(self, trainer: Trainer) -> None:
        with _named_error(self._path, "on_saved"):
            self._callback.on_saved(trainer)

    def on_end(self, trainer: Trainer) -> None:
        with _named_error(self._path, "on_end"):
            self._callback.on_end(trainer)

    def on_error(self, trainer: Trainer, error: BaseException) -> None:
        """What is raised here is shown, and does not replace `error`."""
        try:
            self._callback.on_error(trainer, error)
        except Exception as failure:
            text = f"callback {self._path} failed in on_error: {one_line(failure)}"
            trainer.coordinator.notify(text)


@contextmanager
def _named_error(path: str, hook: str) -> Iterator[None]:
    """Within it, any error is a JobFailed that names the callback and its hook."""
    try:
        yield
    except Exception as error:
        raise JobFailed(
            f"callback {path} failed in {hook}: {one_line(error)}",
            hint="correct it or remove it from `callbacks`; the same command then continues from"
            " the last checkpoint",
            details=format_traceback(error),
        ) from error


def _component(config: AnyCallback) -> CustomComponent:
    """A callback's keys under its import path."""
    if isinstance(config, CustomComponent):
        return config
    if config.kind not in registry.BUILT_IN:
        known = list(registry.BUILT_IN)
        raise RequestError(
            f"unknown callback '{config.kind}'",
            where="callbacks",
            hint=suggest(config.kind, known)
            if known
            else "your own is named by its import path, package.module:Name",
        )
    return CustomComponent(kind=registry.BUILT_IN[config.kind], **config.options())


def _callback_class(config: AnyCallback, key: str) -> type[Callback]:
    component = _component(config)
    kind = import_component(component.kind)
    where = f"{key}: {config.kind}"
    if not (isinstance(kind, type) and issubclass(kind, Callback)):
        raise RequestError(
            "it is no callback", where=where, hint=f"derive the class from {BASE.replace(':', '.')}"
        )
    component_config(component)
    _check_call(kind, kind.__name__, "config", where)
    for hook in HOOKS:
        expected = list(inspect.signature(getattr(Callback, hook)).parameters)
        _check_call(getattr(kind, hook), hook, ", ".join(expected), where)
    for name in dir(kind):
        if name.startswith("on_") and name not in HOOKS:
            raise RequestError(
                f"there is no hook '{name}'", where=where, hint=suggest(name, list(HOOKS))
            )
    return kind


def _check_call(target: Callable[..., object], name: str, expected: str, where: str) -> None:
    """Whether `target` takes the arguments that it is called with, by position."""
    if not callable(target):
        raise RequestError(f"{name} is no method", where=where, hint=f"write {name}({expected})")
    signature = inspect.signature(target)
    try:
        signature.bind(*expected.split(", "))
    except TypeError:
        raise RequestError(
            f"{name}{signature} cannot be called as {name}({expected})",
            where=where,
            hint=f"the signature is {name}({expected})",
        ) from None
