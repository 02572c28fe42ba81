"""The driver of a training: data, identity, MLflow run, workers, export, registration."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.prepare import Prepared, prepare
from orchestrator.errors import JobFailed, OrchestratorError
from orchestrator.job import TrainJob
from orchestrator.plan import plan
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.registry import register
from orchestrator.tracking.run import RunRef, finish_run, start_run
from orchestrator.training.board import ClusterLost, LocalBoard, News, RayBoard
from orchestrator.training.export import export_model
from orchestrator.training.placement import scaling_config, set_patience
from orchestrator.training.run_record import RunRecord, open_record
from orchestrator.training.signals import stopping_cleanly
from orchestrator.training.watch import watching
from orchestrator.training.worker import Assignment


@dataclass(frozen=True)
class TrainResult:
    """What a training came to."""

    record: RunRecord
    tracking: RunRef
    prepared: Prepared
    first_step_at: float | None


def run_train(
    job: TrainJob, progress: Progress, *, fresh: bool, local: bool, profile: bool
) -> TrainResult:
    """Train `job` to its last step and register the model; continues what was begun.

    Raises:
        RequestError: nothing was started.
        JobFailed: the training stopped; what it had saved stays and is continued next time.
        Stopped: a signal asked for it; the state of the last step is saved.
    """
    storage = Storage(job.storage)
    job = job.model_copy(update={"storage": storage.root})
    folder = storage.sub("runs", job.name)
    with nullcontext() if local else ray_session():
        prepared = prepare(job, progress, local=local)
        record = open_record(job, folder, prepared.digest, fresh=fresh)
        tracking = start_run(
            job,
            storage,
            run_id=record.mlflow_run_id or None,
            plan=plan(job).to_dict(),
            datasets=prepared.indexes,
            tags={"fingerprint": record.fingerprint, "dataset": prepared.digest},
            nodes=1 if local else _nodes(),
        )
        record.mlflow_uri, record.mlflow_run_id = tracking.uri, tracking.run_id
        record.mlflow_experiment_id = tracking.experiment_id
        record.launches += 1
        record.datasets = [index.uri for index in prepared.indexes]
        record.weights = prepared.weights
        record.save(folder)
        with _closing_run(tracking):
            first_step_at = None
            if record.outcome:
                progress.message(f"'{job.name}' has been trained already; --fresh begins anew")
            else:
                news = _train(job, folder, prepared, tracking, record, progress, local, profile)
                record.outcome, first_step_at = news.outcome, news.first_step_at
                record.save(folder)
            if not record.model_uri:
                record.model_uri = _register(job, folder, record, tracking)
            record.save(folder)
    return TrainResult(record, tracking, prepared, first_step_at)


class Stopped(OrchestratorError):
    """The training was saved and ended, as a signal asked: an end, but no error."""

    prefix = ""

    def __init__(self, step: int, job: TrainJob, asked: signal.Signals | None) -> None:
        super().__init__(
            f"stopped and saved after {step:,} of {job.optim.steps:,} steps",
            where=job.name,
            mend="the same command continues from there",
        )
        # As shells tell the end by a signal; 130 is Ctrl-C.
        self.exit_code = 128 + (asked or signal.SIGINT)


@contextmanager
def _closing_run(tracking: RunRef) -> Iterator[None]:
    """The MLflow run ends as the training ended."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        finish_run(tracking, "KILLED")
        raise
    except BaseException:
        finish_run(tracking, "FAILED")
        raise
    finish_run(tracking, "FINISHED")


def _train(
    job: TrainJob,
    folder: Storage,
    prepared: Prepared,
    tracking: RunRef,
    record: RunRecord,
    progress: Progress,
    local: bool,
    profile: bool,
) -> News:
    state = {
        "fingerprint": record.fingerprint,
        "dataset": record.dataset,
        "mlflow_run_id": tracking.run_id,
    }
    board = LocalBoard() if local else RayBoard.create()
    assignment = Assignment(job, folder, prepared, tracking, board, record.launches, state, profile)
    with (
        stopping_cleanly(board.ask_stop, progress.message) as asked,
        watching(board, progress, job, folder),
    ):
        if local:
            _fit_local(assignment)
        else:
            _fit_ray(assignment)
    news = board.read()
    if news.fatal is not None:
        raise news.fatal
    if news.stopped_at is not None:
        raise Stopped(news.stopped_at, job, asked.signal)
    return news


def _fit_local(assignment: Assignment) -> None:
    from orchestrator.training.group import local_group
    from orchestrator.training.worker import RolledBack, train

    group = local_group(assignment.job.scale.device)
    try:
        train(assignment, group)
    except RolledBack:
        train(assignment, group)


def _fit_ray(assignment: Assignment) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    job, folder = assignment.job, assignment.folder
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    set_patience(job)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"assignment": assignment, "python_path": _python_path()},
        torch_config=TorchConfig(timeout_s=max(1, round(job.scale.timeout))),
        scaling_config=scaling_config(job),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=folder.at("ray"),
            storage_filesystem=folder.fs,
            # As often as it takes: the board ends a training that gets no further.
            failure_config=ray.train.FailureConfig(max_failures=-1),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _first_cause(error, assignment) from error
    except ray.exceptions.RayError as error:  # not the workers': the controller's own end
        raise ClusterLost.by(error) from error


def _python_path() -> list[str]:
    """Where this process finds a user's own parts: the current folder, and PYTHONPATH."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path.cwd()), *(str(Path(folder).absolute()) for folder in named if folder)]


def _worker(config: dict[str, Any]) -> None:
    """Ray Train's loop per worker."""
    import sys

    sys.path[:0] = [folder for folder in config["python_path"] if folder not in sys.path]
    from orchestrator.training.group import ray_group
    from orchestrator.training.worker import train

    train(config["assignment"], ray_group())


def _first_cause(error: Exception, assignment: Assignment) -> OrchestratorError:
    """The one message that explains why the workers died."""
    news = assignment.board.read()
    if news.fatal is not None:
        return news.fatal
    failures = getattr(error, "worker_failures", {})
    causes = [f"rank {rank}: {type(e).__name__}: {e}" for rank, e in sorted(failures.items())]
    first = causes[0].strip().splitlines() if causes else str(error).splitlines()
    return JobFailed(
        f"the workers could not go on: {first[0]} ... {first[-1]}",
        where=assignment.folder.root,
        mend="the last checkpoint stands: the same command continues from it; --debug shows all",
    )


def _nodes() -> int:
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"])


def _register(job: TrainJob, folder: Storage, record: RunRecord, tracking: RunRef) -> str:
    """Export the newest checkpoint; register it where the job names a model."""
    name = str(record.outcome["checkpoint"])
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "model"
        export_model(job, folder.sub("checkpoints"), name, out)
        for file in sorted(out.iterdir()):
            folder.write_bytes(f"model/{file.name}", file.read_bytes())
        if job.track.register_as is None:
            return folder.uri("model")
        version = register(
            tracking,
            out,
            job.track.register_as,
            metrics=record.outcome["metrics"],
            tags={"run": job.name, "fingerprint": record.fingerprint, "dataset": record.dataset},
        )
    return f"models:/{job.track.register_as}/{version}"
