"""Where checkpoints are judged while training goes on: in a process beside the workers, or here."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.suite.driver import EvaluationResult, evaluate_suite
from orchestrator.jepa.model_files import load_folder
from orchestrator.job import EvaluateJob, TrainJob
from orchestrator.progress import SilentProgress
from orchestrator.ray_session import add_to_sys_path, custom_code_folders
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.eval_exports import (
    export_for_evaluation,
    exported_model_folder,
)

START_TIMEOUT_S = 30.0
"""Seconds that a task waits for the cores that should be free, before it does without."""

POLL_S = 0.5
LOWEST_PRIORITY = 19


class EvaluationFailed(Exception):
    """An evaluation, or the cutting of its model, failed; `line` is short, `text` is all."""

    def __init__(self, line: str, text: str) -> None:
        super().__init__(line)
        self.message, self.traceback_text = line, text

    @classmethod
    def from_exception(cls, error: BaseException) -> EvaluationFailed:
        """What was raised, for a person."""
        text = "".join(traceback.format_exception(error))
        if isinstance(error, OrchestratorError):
            return cls(" ".join(str(error).split()), text)
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        return cls(f"{type(error).__name__}: {first}", text)


class TrainingStopped(Exception):
    """The training is to end: what goes on is left as it is."""


class EvaluationExecutor(Protocol):
    """Judges one model at a time."""

    shares_worker_cpus: bool
    """It has no cores of its own: what goes on shares the workers'."""

    def export_model(self, job: TrainJob, checkpoints: Storage, name: str, place: Storage) -> None:
        """Write the model of a checkpoint into `place`.

        Raises EvaluationFailed or TrainingStopped.
        """

    def start(self, job: EvaluateJob, place: Storage) -> None:
        """Judge the model in `place`."""

    def poll(self) -> EvaluationResult | None:
        """What was found; None while it goes on. Raises EvaluationFailed or TrainingStopped."""

    def on_workers_exited(self) -> None:
        """There is nobody left to share the cores with."""

    def cancel(self) -> None:
        """End what goes on, at once."""


class InProcessExecutor:
    """In this process, which waits for it (`--local`)."""

    shares_worker_cpus = False

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._work: tuple[EvaluateJob, Storage] | None = None

    def export_model(self, job: TrainJob, checkpoints: Storage, name: str, place: Storage) -> None:
        try:
            export_for_evaluation(job, checkpoints, name, place)
        except Exception as error:
            raise EvaluationFailed.from_exception(error) from error

    def start(self, job: EvaluateJob, place: Storage) -> None:
        self._work = job, place

    def poll(self) -> EvaluationResult | None:
        assert self._work is not None
        try:
            return _evaluate_exported(*self._work, _StopCheckProgress(self._stop))
        except TrainingStopped:
            raise
        except Exception as error:  # a user's own part may raise anything
            raise EvaluationFailed.from_exception(error) from error

    def on_workers_exited(self) -> None:
        """They were never there."""

    def cancel(self) -> None:
        """Nothing goes on outside of `poll`."""


class _StopCheckProgress(SilentProgress):
    """Ends an evaluation between two of its parts."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def update(
        self, stage: str, done: float, total: float, facts: dict[str, float | str] | None = None
    ) -> None:
        if self._stop.is_set():
            raise TrainingStopped


class RayExecutor:
    """A Ray task, one at a time, which neither waits for the workers nor keeps them waiting.

    It reserves the job's `cpus` where the cluster has as much beside all workers: also when they
    are started again they find their room. Where it has not, or where others have taken it, it
    reserves nothing and computes with one thread. It runs at the lowest priority.
    """

    def __init__(self, stop: threading.Event, workers_cpus: float) -> None:
        self._stop, self._workers_cpus = stop, workers_cpus
        self._work: tuple[EvaluateJob, Storage] | None = None
        self._stream: Any = None
        self._reserved, self._started_at = 0.0, 0.0
        self._is_running, self.shares_worker_cpus = False, False

    def export_model(self, job: TrainJob, checkpoints: Storage, name: str, place: Storage) -> None:
        import ray

        task = ray.remote(**_unreserved_task_options())(_export_task)
        ref = task.remote(custom_code_folders(), job, checkpoints, name, place)
        while not ray.wait([ref], timeout=POLL_S)[0]:
            if self._stop.is_set():
                ray.cancel(ref, force=True)
                raise TrainingStopped
        _get_task_result(ref)

    def start(self, job: EvaluateJob, place: Storage) -> None:
        self._work = job, place
        self._submit(job.cpus if self._available_cpus() >= job.cpus else 0.0)

    def poll(self) -> EvaluationResult | None:
        import ray

        while ray.wait([self._stream], timeout=0)[0]:
            found: EvaluationResult | None = _get_task_result(next(self._stream))
            if found is not None:
                return found
            self._is_running = True
        waited = not self._is_running and time.monotonic() - self._started_at > START_TIMEOUT_S
        if self._reserved and (waited or self._available_cpus() < self._reserved):
            self.cancel()
            self._submit(0.0)
        return None

    def on_workers_exited(self) -> None:
        self._workers_cpus = 0.0

    def cancel(self) -> None:
        import ray

        if self._stream is not None:
            with suppress(ray.exceptions.RayError):  # the cluster may be gone, and it with it
                ray.cancel(self._stream, force=True)
            self._stream = None

    def _available_cpus(self) -> float:
        """Cores of the cluster beside those of all workers, whether these run or not."""
        import ray

        return float(ray.cluster_resources().get("CPU", 0)) - self._workers_cpus

    def _submit(self, cpus: float) -> None:
        import ray

        assert self._work is not None
        options = {**_unreserved_task_options(), "num_returns": "streaming"}
        if cpus:
            options |= {"num_cpus": cpus, "scheduling_strategy": "DEFAULT"}
        self._reserved, self._is_running, self._started_at = cpus, False, time.monotonic()
        self.shares_worker_cpus = cpus == 0.0 and self._workers_cpus > 0
        task = ray.remote(**options)(_evaluate_task)
        self._stream = task.remote(custom_code_folders(), *self._work, max(1, int(cpus)))


def _unreserved_task_options() -> dict[str, Any]:
    """A task that finds a place whatever is taken: on the node with most cores, in a process of its
    own, whose threads and priority nobody inherits."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    largest = max(alive, key=lambda node: node["Resources"].get("CPU", 0.0))
    there = NodeAffinitySchedulingStrategy(largest["NodeID"], soft=True)
    return {"num_cpus": 0, "max_calls": 1, "max_retries": 1, "scheduling_strategy": there}


def _get_task_result(ref: Any) -> Any:
    """What a task gave.

    Raises:
        EvaluationFailed: it raised, or its process or node died.
    """
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise EvaluationFailed(
            EvaluationFailed.from_exception(error.cause).message, str(error)
        ) from error
    except (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.ObjectLostError,
    ) as error:
        raise EvaluationFailed.from_exception(error) from error


def _export_task(
    folders: list[str], job: TrainJob, checkpoints: Storage, name: str, place: Storage
) -> None:
    """`export_for_evaluation` as a task."""
    _lower_priority(folders, threads=1)
    export_for_evaluation(job, checkpoints, name, place)


def _evaluate_task(
    folders: list[str], job: EvaluateJob, place: Storage, threads: int
) -> Iterator[EvaluationResult | None]:
    """Judge a model as a task: None as soon as it runs, then what was found."""
    _lower_priority(folders, threads)
    yield None
    yield _evaluate_exported(job, place, SilentProgress())


def _evaluate_exported(
    job: EvaluateJob, place: Storage, progress: SilentProgress
) -> EvaluationResult:
    with exported_model_folder(place) as folder:
        model = load_folder(folder)
    return evaluate_suite(job, model, progress, local=True)


def _lower_priority(folders: list[str], threads: int) -> None:
    """Find the user's own parts, and leave the cores to those who train."""
    import torch

    add_to_sys_path(folders)
    torch.set_num_threads(threads)
    os.nice(LOWEST_PRIORITY - os.nice(0))
