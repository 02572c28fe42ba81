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
from orchestrator.evaluation.suite.driver import Judged, judged
from orchestrator.jepa.model_files import load_folder
from orchestrator.job import EvaluateJob, TrainJob
from orchestrator.progress import Silent
from orchestrator.ray_session import find_parts_in, python_path
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.eval_exports import cut, cut_model

START_S = 30.0
"""Seconds that a task waits for the cores that should be free, before it does without."""

POLL_S = 0.5
NICEST = 19


class Failed(Exception):
    """An evaluation, or the cutting of its model, failed; `line` is short, `text` is all."""

    def __init__(self, line: str, text: str) -> None:
        super().__init__(line)
        self.line, self.text = line, text

    @classmethod
    def by(cls, error: BaseException) -> Failed:
        """What was raised, for a person."""
        text = "".join(traceback.format_exception(error))
        if isinstance(error, OrchestratorError):
            return cls(" ".join(str(error).split()), text)
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        return cls(f"{type(error).__name__}: {first}", text)


class Ended(Exception):
    """The training is to end: what goes on is left as it is."""


class Place(Protocol):
    """Judges one model at a time."""

    shares: bool
    """It has no cores of its own: what goes on shares the workers'."""

    def cut(self, job: TrainJob, checkpoints: Storage, name: str, place: Storage) -> None:
        """Write the model of a checkpoint into `place`. Raises Failed or Ended."""

    def begin(self, job: EvaluateJob, place: Storage) -> None:
        """Judge the model in `place`."""

    def outcome(self) -> Judged | None:
        """What was found; None while it goes on. Raises Failed or Ended."""

    def workers_are_gone(self) -> None:
        """There is nobody left to share the cores with."""

    def abandon(self) -> None:
        """End what goes on, at once."""


class Here:
    """In this process, which waits for it (`--local`)."""

    shares = False

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._work: tuple[EvaluateJob, Storage] | None = None

    def cut(self, job: TrainJob, checkpoints: Storage, name: str, place: Storage) -> None:
        try:
            cut(job, checkpoints, name, place)
        except Exception as error:
            raise Failed.by(error) from error

    def begin(self, job: EvaluateJob, place: Storage) -> None:
        self._work = job, place

    def outcome(self) -> Judged | None:
        assert self._work is not None
        try:
            return _judge(*self._work, _Stoppable(self._stop))
        except Ended:
            raise
        except Exception as error:  # a user's own part may raise anything
            raise Failed.by(error) from error

    def workers_are_gone(self) -> None:
        """They were never there."""

    def abandon(self) -> None:
        """Nothing goes on outside of `outcome`."""


class _Stoppable(Silent):
    """Ends an evaluation between two of its parts."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def update(
        self, stage: str, done: float, total: float, facts: dict[str, float | str] | None = None
    ) -> None:
        if self._stop.is_set():
            raise Ended


class Beside:
    """A Ray task, one at a time, which neither waits for the workers nor keeps them waiting.

    It reserves the job's `cpus` where the cluster has as much beside all workers: also when they
    are started again they find their room. Where it has not, or where others have taken it, it
    reserves nothing and computes with one thread. It runs at the lowest priority.
    """

    def __init__(self, stop: threading.Event, workers_cpus: float) -> None:
        self._stop, self._workers_cpus = stop, workers_cpus
        self._work: tuple[EvaluateJob, Storage] | None = None
        self._stream: Any = None
        self._reserved, self._began = 0.0, 0.0
        self._runs, self.shares = False, False

    def cut(self, job: TrainJob, checkpoints: Storage, name: str, place: Storage) -> None:
        import ray

        task = ray.remote(**_unreserved())(_cut)
        ref = task.remote(python_path(), job, checkpoints, name, place)
        while not ray.wait([ref], timeout=POLL_S)[0]:
            if self._stop.is_set():
                ray.cancel(ref, force=True)
                raise Ended
        _result(ref)

    def begin(self, job: EvaluateJob, place: Storage) -> None:
        self._work = job, place
        self._launch(job.cpus if self._room() >= job.cpus else 0.0)

    def outcome(self) -> Judged | None:
        import ray

        while ray.wait([self._stream], timeout=0)[0]:
            found: Judged | None = _result(next(self._stream))
            if found is not None:
                return found
            self._runs = True
        waited = not self._runs and time.monotonic() - self._began > START_S
        if self._reserved and (waited or self._room() < self._reserved):
            self.abandon()
            self._launch(0.0)
        return None

    def workers_are_gone(self) -> None:
        self._workers_cpus = 0.0

    def abandon(self) -> None:
        import ray

        if self._stream is not None:
            with suppress(ray.exceptions.RayError):  # the cluster may be gone, and it with it
                ray.cancel(self._stream, force=True)
            self._stream = None

    def _room(self) -> float:
        """Cores of the cluster beside those of all workers, whether these run or not."""
        import ray

        return float(ray.cluster_resources().get("CPU", 0)) - self._workers_cpus

    def _launch(self, cpus: float) -> None:
        import ray

        assert self._work is not None
        options = {**_unreserved(), "num_returns": "streaming"}
        if cpus:
            options |= {"num_cpus": cpus, "scheduling_strategy": "DEFAULT"}
        self._reserved, self._runs, self._began = cpus, False, time.monotonic()
        self.shares = cpus == 0.0 and self._workers_cpus > 0
        task = ray.remote(**options)(_judge_there)
        self._stream = task.remote(python_path(), *self._work, max(1, int(cpus)))


def _unreserved() -> dict[str, Any]:
    """A task that finds a place whatever is taken: on the node with most cores, in a process of its
    own, whose threads and priority nobody inherits."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    largest = max(alive, key=lambda node: node["Resources"].get("CPU", 0.0))
    there = NodeAffinitySchedulingStrategy(largest["NodeID"], soft=True)
    return {"num_cpus": 0, "max_calls": 1, "max_retries": 1, "scheduling_strategy": there}


def _result(ref: Any) -> Any:
    """What a task gave.

    Raises:
        Failed: it raised, or its process or node died.
    """
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise Failed(Failed.by(error.cause).line, str(error)) from error
    except (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.ObjectLostError,
    ) as error:
        raise Failed.by(error) from error


def _cut(
    folders: list[str], job: TrainJob, checkpoints: Storage, name: str, place: Storage
) -> None:
    """`training.snapshots.cut` as a task."""
    _step_back(folders, threads=1)
    cut(job, checkpoints, name, place)


def _judge_there(
    folders: list[str], job: EvaluateJob, place: Storage, threads: int
) -> Iterator[Judged | None]:
    """Judge a model as a task: None as soon as it runs, then what was found."""
    _step_back(folders, threads)
    yield None
    yield _judge(job, place, Silent())


def _judge(job: EvaluateJob, place: Storage, progress: Silent) -> Judged:
    with cut_model(place) as folder:
        model = load_folder(folder)
    return judged(job, model, progress, local=True)


def _step_back(folders: list[str], threads: int) -> None:
    """Find the user's own parts, and leave the cores to those who train."""
    import torch

    find_parts_in(folders)
    torch.set_num_threads(threads)
    os.nice(NICEST - os.nice(0))
