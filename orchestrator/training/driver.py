"""The driver of a training: data, identity, MLflow run, workers, export, registration."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.data.packing.prepare import PreparedData, prepare_data
from orchestrator.job import TrainJob
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.alerts import send_alert
from orchestrator.tracking.live.pending import send_spooled
from orchestrator.tracking.mlflow_errors import report_mlflow_errors
from orchestrator.tracking.registry import register_model
from orchestrator.tracking.run import RunRef, finish_run
from orchestrator.training.callbacks.custom import check_callbacks
from orchestrator.training.checkpoints.export import export_model
from orchestrator.training.control.coordinator import (
    LocalCoordinator,
    RayCoordinator,
    RunCoordinator,
    RunStatus,
)
from orchestrator.training.control.monitor import monitor_workers
from orchestrator.training.control.signals import Stopped, graceful_shutdown
from orchestrator.training.launch import train_local, train_on_ray
from orchestrator.training.placement import total_reserved_cpus
from orchestrator.training.protocols import (
    InTrainingEvaluations,
    OpenEvaluations,
    UnlimitedSlot,
    WorkerSlot,
)
from orchestrator.training.resolve.actions import resolve_actions
from orchestrator.training.resolve.frozen_teacher import resolve_teacher
from orchestrator.training.resolve.pca import resolve_pca
from orchestrator.training.run_record import RunRecord, RunTakenOver, read_record
from orchestrator.training.run_setup import set_up_run
from orchestrator.training.worker_config import WorkerConfig
from orchestrator.unexpected import error_context

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a training came to."""

    record: RunRecord
    tracking: RunRef
    prepared: PreparedData
    first_step_at: float | None
    evaluated: dict[str, float] = field(default_factory=dict)
    """What evaluations on the way say of the last step."""


def run_train(
    job: TrainJob,
    progress: Progress,
    *,
    fresh: bool,
    local: bool,
    profile: bool,
    open_evaluations: OpenEvaluations,
    stop_after_step: int | None = None,
    parent_run_id: str | None = None,
    slot: WorkerSlot | None = None,
) -> TrainResult:
    """Train `job` to its last step and register the model; continues what was begun.

    `stop_after_step` pauses it when so many steps are done; `parent_run_id` is the MLflow run
    that it belongs to; `slot` says when its workers may start, and when they shall end before the
    last step.

    `open_evaluations` is called with the job, the run's folder, its MLflow run, the progress, the
    launch's number, and the cores that workers reserve (None in a local run).

    Raises:
        RequestError: nothing was started.
        JobFailed: the training stopped; what it had saved stays and is continued next time.
        Stopped: a signal or `stop_after_step` asked for it; the state of the last step is saved.
    """
    check_callbacks(job)
    storage = Storage(job.storage)
    job = job.model_copy(update={"storage": storage.root})
    folder = storage.subfolder("runs", job.name)
    with nullcontext() if local else ray_session():
        job = resolve_teacher(job, storage)
        with error_context("preparing the data"):
            prepared = prepare_data(job, progress, local=local)
        begun = None if fresh else read_record(folder)
        job = resolve_actions(job, prepared, progress, local=local, existing_record=begun)
        job = resolve_pca(job, prepared, storage, progress, existing_record=begun)
        nodes = 1 if local else _count_nodes()
        with error_context("beginning the run"):
            record, start, tracking = set_up_run(
                job,
                storage,
                prepared,
                progress,
                fresh=fresh,
                nodes=nodes,
                parent_run_id=parent_run_id,
            )
        with _finish_mlflow_run(tracking, job.name, progress.message):
            cpus = None if local else 0.0 if record.outcome else total_reserved_cpus(job)
            evaluations = open_evaluations(job, folder, tracking, progress, record.launches, cpus)
            with evaluations.running():
                first_step_at = None
                if record.outcome:
                    progress.message(f"'{job.name}' has been trained already; --fresh begins anew")
                else:
                    coordinator = LocalCoordinator() if local else RayCoordinator.create()
                    config = replace(
                        _make_worker_config(
                            job, folder, prepared, tracking, coordinator, record, profile
                        ),
                        stop_after_step=stop_after_step,
                        initial_model=start,
                    )
                    status = _train(
                        config, coordinator, evaluations, progress, slot or UnlimitedSlot()
                    )
                    record.outcome, first_step_at = status.outcome, status.first_step_at
                    record.save(folder)
                _export_and_register(job, folder, record, tracking)
                record.save(folder)
                evaluated = _finish_evaluations(evaluations, job, progress)
    return TrainResult(record, tracking, prepared, first_step_at, evaluated)


@contextmanager
def _finish_mlflow_run(
    tracking: RunRef, name: str, tell: Callable[[str], None] = log.warning
) -> Iterator[None]:
    """The MLflow run ends as the training ended, and whoever is to be alerted hears of it."""
    try:
        yield
    except RunTakenOver:
        raise  # the other driver's end is the run's
    except (KeyboardInterrupt, Stopped):
        with report_mlflow_errors(tell):
            finish_run(tracking, "KILLED")
        raise
    except BaseException as error:
        send_alert(f"{name} failed: {error}")
        with report_mlflow_errors(tell):
            finish_run(tracking, "FAILED")
        raise
    send_alert(f"{name} is done")
    finish_run(tracking, "FINISHED")


def _make_worker_config(
    job: TrainJob,
    folder: Storage,
    prepared: PreparedData,
    tracking: RunRef,
    coordinator: RunCoordinator,
    record: RunRecord,
    profile: bool,
) -> WorkerConfig:
    state = {
        "fingerprint": record.fingerprint,
        "dataset": record.dataset,
        "mlflow_run_id": tracking.run_id,
    }
    return WorkerConfig(
        job, folder, prepared, tracking, coordinator, record.launches, state, profile
    )


def _train(
    config: WorkerConfig,
    coordinator: LocalCoordinator | RayCoordinator,
    evaluations: InTrainingEvaluations,
    progress: Progress,
    slot: WorkerSlot,
) -> RunStatus:
    job = config.job

    def stop() -> None:
        evaluations.cancel()
        coordinator.request_stop()

    with (
        slot.acquired(),
        graceful_shutdown(stop, progress.message) as asked,
        monitor_workers(coordinator, progress, job, config.run_folder, slot.should_stop),
    ):
        if isinstance(coordinator, LocalCoordinator):
            train_local(replace(config, evaluate_due=evaluations.evaluate_due))
        else:
            train_on_ray(config)
    status = coordinator.read_status()
    if status.fatal_error is not None:
        raise status.fatal_error
    if status.stopped_at is not None:
        raise Stopped(
            f"stopped and saved after {status.stopped_at:,} of {job.optim.steps:,} steps",
            where=job.name,
            hint="the same command continues from there",
        ).with_signal(asked.signal)
    return status


def _finish_evaluations(
    evaluations: InTrainingEvaluations, job: TrainJob, progress: Progress
) -> dict[str, float]:
    """Wait for the last evaluations.

    Raises:
        Stopped: a signal asked for the end before.
    """
    what = "ending without the evaluation that is waited for"
    with graceful_shutdown(evaluations.cancel, progress.message, what) as asked:
        evaluated = evaluations.finish()
    if evaluations.cancelled:
        raise Stopped(
            "the training is done and kept; its last evaluation was given up",
            where=job.name,
            hint="the same command evaluates it",
        ).with_signal(asked.signal)
    return evaluated


def _count_nodes() -> int:
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"])


def _export_and_register(
    job: TrainJob, folder: Storage, record: RunRecord, tracking: RunRef
) -> None:
    """The trained model goes into the run's folder, what MLflow still lacks to MLflow, and then the
    model into its registry, where the job names one. What was done before is not done again.

    Raises:
        NotRecorded: MLflow did not take it all; the next run of the same command goes on there.
    """
    if record.model_uri:
        send_spooled(tracking, folder.subfolder("spool"), job.optim.steps)
        return
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "model"
        name = str(record.outcome["checkpoint"])
        with error_context("exporting the model"):
            export_model(job, folder.subfolder("checkpoints"), name, out)
            for file in sorted(out.iterdir()):
                folder.write_bytes(f"model/{file.name}", file.read_bytes())
        send_spooled(tracking, folder.subfolder("spool"), job.optim.steps)
        record.model_uri = folder.uri("model")
        if job.track.register_as is not None:
            with error_context("registering the model"):
                record.model_uri = _register_model(job, record, tracking, out)


def _register_model(job: TrainJob, record: RunRecord, tracking: RunRef, folder: Path) -> str:
    """The URI of a new version of the model that the job names."""
    assert job.track.register_as is not None
    version = register_model(
        tracking,
        folder,
        job.track.register_as,
        metrics=record.outcome["metrics"],
        tags={"run": job.name, "fingerprint": record.fingerprint, "dataset": record.dataset},
    )
    return f"models:/{job.track.register_as}/{version}"
