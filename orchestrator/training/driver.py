"""The driver of a training: data, identity, MLflow run, workers, export, registration."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.prepare import Prepared, prepare
from orchestrator.errors import JobFailed, OrchestratorError, RequestError
from orchestrator.job import TrainJob
from orchestrator.plan import plan
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.registry import register
from orchestrator.tracking.run import RunRef, finish_run, start_run
from orchestrator.training.board import LocalBoard, News, RayBoard
from orchestrator.training.export import export_model
from orchestrator.training.run_record import RunRecord, open_record
from orchestrator.training.worker import Assignment

# A worker group that dies is started again this often; the run goes on from its checkpoint.
MAX_FAILURES = 3
# A collective that waits this long has lost a rank.
COLLECTIVE_TIMEOUT_S = 300


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


@contextmanager
def _closing_run(tracking: RunRef) -> Iterator[None]:
    """The MLflow run ends as the training ended."""
    try:
        yield
    except KeyboardInterrupt:
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
    with _watching(board, progress, job.optim.steps):
        if local:
            _fit_local(assignment)
        else:
            _fit_ray(assignment)
    return board.read()


def _fit_local(assignment: Assignment) -> None:
    from orchestrator.training.group import local_group
    from orchestrator.training.worker import train

    train(assignment, local_group(assignment.job.scale.device))


def _fit_ray(assignment: Assignment) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    job, folder = assignment.job, assignment.folder
    use_gpu = _use_gpu(job)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"assignment": assignment, "python_path": str(Path.cwd())},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.scale.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": _cpus_per_worker(job), **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=folder.at("ray"),
            storage_filesystem=folder.fs,
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _first_cause(error, assignment) from error


def _worker(config: dict[str, Any]) -> None:
    """Ray Train's loop per worker."""
    import sys

    if config["python_path"] not in sys.path:
        sys.path.insert(0, config["python_path"])
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
        f"the workers died {MAX_FAILURES + 1} times; the last: {first[0]} ... {first[-1]}",
        where=assignment.folder.root,
        mend="the last checkpoint stands: the same command continues from it; --debug shows all",
    )


def _use_gpu(job: TrainJob) -> bool:
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    if job.scale.device == "cpu" or (job.scale.device == "auto" and gpus == 0):
        return False
    if gpus < job.scale.workers:
        raise RequestError(
            f"{job.scale.workers} workers need {job.scale.workers} GPUs, the cluster has {gpus}",
            where="scale.workers",
            mend=f"set scale.workers={max(gpus, 1)}, or scale.device=cpu",
        )
    return True


def _cpus_per_worker(job: TrainJob) -> float:
    """Cores that a worker reserves; one core of the cluster is left to read data.

    Raises:
        RequestError: the reservation would leave no core for Ray Data, which then never starts.
    """
    import ray

    cores, workers = float(ray.cluster_resources().get("CPU", 0)), job.scale.workers
    share = job.scale.cpus or max(0.1, round((cores - 1) / workers - 0.005, 2))
    if share * workers > cores - 0.5:
        raise RequestError(
            f"{workers} workers x {share} CPUs leave less than half a core of {cores:g} for data",
            where="scale.cpus",
            mend="lower scale.cpus or scale.workers",
        )
    return float(share)


def _nodes() -> int:
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"])


@contextmanager
def _watching(board: LocalBoard | RayBoard, progress: Progress, steps: int) -> Iterator[None]:
    """Show what the workers post, until they are done."""
    stop = threading.Event()

    def show() -> None:
        news = board.read()
        for text in news.messages:
            progress.message(text)
        progress.update("train", news.step, steps, news.facts)

    def watch() -> None:
        while not stop.wait(0.5):
            show()

    thread = threading.Thread(target=watch, daemon=True, name="watch-board")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    show()


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
