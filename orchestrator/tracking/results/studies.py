"""Studies in MLflow: a parent run with the report, and the trainings as its children."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Param, RunTag

from orchestrator.job import PipelineJob, StudyJob, TuneJob, explicit_job_dict, job_dict
from orchestrator.storage import Storage
from orchestrator.tracking.metrics import to_mlflow_metrics
from orchestrator.tracking.mlflow_errors import mlflow_read, mlflow_write
from orchestrator.tracking.run import PARENT_TAG, RESEND_HINT, RunRef, create_run
from orchestrator.tracking.run_inputs import JOB_FILE, flat_params
from orchestrator.tracking.runtime_info import git_tags, runtime_info
from orchestrator.tracking.server import mlflow_client, require_usable, tracking_uri

RUN_REF_FILE = "mlflow.json"


def open_study(
    job: StudyJob, storage: Storage, folder: Storage, parent_run_id: str | None = None
) -> RunRef:
    """The study's run, as `open_parent_run` makes it."""
    return open_parent_run(job, job.track.uri, job.track.experiment, storage, folder, parent_run_id)


def open_parent_run(
    job: StudyJob | TuneJob | PipelineJob,
    track_uri: str | None,
    experiment: str,
    storage: Storage,
    folder: Storage,
    parent_run_id: str | None = None,
) -> RunRef:
    """The run of a job of many trainings, made at its first launch and continued at later ones.

    Args:
        track_uri: the tracking server that the job names.
        folder: where the run is noted.
        parent_run_id: the run of the pipeline whose stage the job is.

    Raises:
        RequestError: the tracking server cannot be used, or does not know the run any more.
        MlflowWriteFailed: it did not take the job's description.
    """
    uri = tracking_uri(track_uri, storage)
    require_usable(uri, nodes=1)
    client = mlflow_client(uri)
    if folder.exists(RUN_REF_FILE):
        noted = folder.read_json(RUN_REF_FILE)
        if noted["uri"] == uri:
            with mlflow_read(uri):
                client.update_run(noted["run_id"], status="RUNNING")
            return RunRef(uri, noted["run_id"], noted["experiment_id"])
    run = create_run(client, uri, experiment, job.name, {"kind": job.kind}, parent_run_id)
    ref = RunRef(uri, run.info.run_id, run.info.experiment_id)
    # What four stages leave at its default would hide what they do not.
    given = explicit_job_dict(job) if job.stage_jobs() else job_dict(job)
    with mlflow_write(uri, f"the {job.kind} job", RESEND_HINT):
        params = [Param(key, value) for key, value in flat_params(given).items()]
        tags = [RunTag(key, value) for key, value in git_tags(Path.cwd()).items()]
        client.log_batch(ref.run_id, [], params[:1000], tags)
        client.log_dict(ref.run_id, dict(runtime_info()), "environment.json")
    folder.write_json(RUN_REF_FILE, {"uri": uri, "run_id": run.info.run_id,
                              "experiment_id": run.info.experiment_id})  # fmt: skip
    return ref


def noted_run(folder: Storage) -> str:
    """Id of the run that `open_parent_run` noted in a folder; "" where it noted none."""
    return str(folder.read_json(RUN_REF_FILE)["run_id"]) if folder.exists(RUN_REF_FILE) else ""


def attach_to_parent(ref: RunRef, run_id: str) -> None:
    """Show a training beneath the job that it belongs to.

    Raises:
        MlflowWriteFailed: MLflow did not take it.
    """
    with mlflow_write(ref.tracking_uri, "a training's place beneath its study", RESEND_HINT):
        mlflow_client(ref.tracking_uri).set_tag(run_id, PARENT_TAG, ref.run_id)


def record_study(ref: RunRef, job: StudyJob, result: Mapping[str, Any], report_html: str) -> None:
    """Scores, ratios and the report, and the end of the run.

    Raises:
        MlflowWriteFailed: MLflow did not take them; they are in the storage all the same.
    """
    with mlflow_write(ref.tracking_uri, f"the {job.kind} job", RESEND_HINT):
        client = mlflow_client(ref.tracking_uri)
        now = client.get_run(ref.run_id).info.start_time
        rows = to_mlflow_metrics(study_metrics(result), now, 0)
        client.log_batch(ref.run_id, rows)
        client.log_text(ref.run_id, yaml.safe_dump(job_dict(job), sort_keys=False), JOB_FILE)
        client.log_text(ref.run_id, report_html, "report.html")
        client.log_dict(ref.run_id, dict(result), "study.json")
        client.set_terminated(ref.run_id, "FINISHED")


def study_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Means over seeds, and ratios with their intervals, as MLflow's metrics."""
    rows: dict[str, float] = {}
    for panel in result["panels"]:
        place = f"{panel['background']}/{panel['score']}"
        for arm, scores in panel["arms"].items():
            counts = result["clips"] if len(scores[0]) > 1 else [0]
            for n, column in zip(counts, zip(*scores, strict=True), strict=True):
                rows[f"{place}/{arm}/n{n}"] = sum(column) / len(column)
        for arm, ratio in panel["ratios"].items():
            named = {"ratio": ratio["value"], "low": ratio["low"], "high": ratio["high"]}
            rows |= {f"{place}/{arm}/{k}": v for k, v in named.items() if v is not None}
    return rows
