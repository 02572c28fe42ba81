"""The beginning of a training: its record, what it starts from, its MLflow run."""

from __future__ import annotations

from orchestrator.data.packing.prepare import PreparedData
from orchestrator.estimate import estimate_job
from orchestrator.job import TrainJob
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.storage.lease import lease
from orchestrator.tracking.run import RunRef, start_run
from orchestrator.training.resolve.frozen_teacher import materialize_teacher
from orchestrator.training.resolve.initial_model import materialize_initial_model
from orchestrator.training.resolve.pca import materialize_pca
from orchestrator.training.run_record import RunRecord, open_record


def set_up_run(
    job: TrainJob,
    storage: Storage,
    prepared: PreparedData,
    progress: Progress,
    *,
    fresh: bool,
    nodes: int,
    parent_run_id: str | None,
) -> tuple[RunRecord, Storage | None, RunRef]:
    """Begin or continue the run that `job` names, before a worker starts.

    Gives its record, the model that it starts with (None: random weights), and its MLflow run.
    `nodes` is how many machines will write; `parent_run_id` is the MLflow run that it belongs to.

    Raises:
        RequestError: another job stands under this name, or MLflow cannot be used.
        JobFailed: MLflow did not take the run's description.
    """
    runs, folder = storage.subfolder("runs"), storage.subfolder("runs", job.name)
    starts = f"starts '{job.name}' too"
    # Of drivers of one name that start together each must see the one before it.
    with lease(runs, f"{job.name}.starting.json", starts, notify=progress.message):
        record = open_record(job, folder, prepared.digest, fresh=fresh)
        start = materialize_initial_model(job, storage, folder, record)
        materialize_teacher(job, storage, folder)
        materialize_pca(job, prepared, storage, folder)
        tracking = start_run(
            job,
            storage,
            run_id=record.mlflow_run_id or None,
            estimate=estimate_job(job).to_dict(),
            datasets=prepared.indexes,
            tags={"fingerprint": record.fingerprint, "dataset": prepared.digest},
            nodes=nodes,
            parent_run_id=parent_run_id,
        )
        record.mlflow_uri, record.mlflow_run_id = tracking.tracking_uri, tracking.run_id
        record.mlflow_experiment_id = tracking.experiment_id
        record.launches += 1
        record.datasets = [index.uri for index in prepared.indexes]
        record.weights = prepared.weights
        record.save(folder)
    return record, start, tracking
