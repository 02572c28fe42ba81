"""The result of an `evaluate` job in MLflow: a run of its own, and a word on the judged version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag
from mlflow.entities.model_registry import ModelVersion

from orchestrator.job import EvaluateJob, job_dict
from orchestrator.job.config.evaluate import SUITE_ONLY_KEYS
from orchestrator.storage import Storage
from orchestrator.tracking.metrics import to_mlflow_metrics
from orchestrator.tracking.mlflow_errors import MlflowUnavailable, MlflowWriteFailed, mlflow_write
from orchestrator.tracking.model_uri import find_version
from orchestrator.tracking.registry import MODEL_ID_TAG
from orchestrator.tracking.run import NOTE_TAG, RESEND_HINT, RunRef, create_run
from orchestrator.tracking.run_inputs import JOB_FILE, flat_params
from orchestrator.tracking.runtime_info import git_tags, runtime_info
from orchestrator.tracking.server import mlflow_client, require_usable, tracking_uri

REPORT_FILE, SUMMARY_FILE, SCORES_FILE = "report.html", "verdict.json", "scores.json"


@dataclass(frozen=True)
class EvaluationRecord:
    """What one evaluation has to tell."""

    description: str
    """Markdown at the head of the run's page."""

    metrics: Mapping[str, float]
    report_html: str
    """The report, HTML."""

    json_files: Mapping[str, Mapping[str, Any]]
    """JSON files, by their names."""

    tags: Mapping[str, str]
    """Of the run; the job's kind and the code's version are added."""

    model_metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics that MLflow shows at the model itself, where it is a registered version."""

    version_tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of that version."""

    version_run_tag: str = ""
    """Its tag that says which run judged it; empty: the version is not looked for."""

    uses_suite: bool = False
    """Whether the keys of the job that are about a suite say something here."""


def record_evaluation_run(
    job: EvaluateJob, storage: Storage, result: EvaluationRecord, parent_run_id: str | None = None
) -> RunRef:
    """A run with metrics, report and numbers; the judged version says where it is.

    `parent_run_id` is the run of the pipeline whose stage the job is.

    Raises:
        RequestError: the judged version is not there any more.
        NotRecorded: MLflow did not take the result, which is in the storage all the same.
    """
    uri = tracking_uri(job.track.uri, storage)
    try:
        require_usable(uri, nodes=1)
        client = mlflow_client(uri)
        judged = bool(result.version_run_tag) and job.model.startswith("models:/")
        version = find_version(client, job.model) if judged else None
        head = {NOTE_TAG: result.description}
        run = create_run(client, uri, job.track.experiment, job.name, head, parent_run_id)
    except MlflowUnavailable as error:  # here the job has done its work
        raise MlflowWriteFailed(error.what, where=error.where, hint=RESEND_HINT) from error
    ref = RunRef(uri, run.info.run_id, run.info.experiment_id)
    with mlflow_write(uri, "the evaluation", RESEND_HINT):
        _write_run(client, ref, job, result, version)
        client.set_terminated(ref.run_id, "FINISHED")
    return ref


def _write_run(
    client: MlflowClient,
    ref: RunRef,
    job: EvaluateJob,
    result: EvaluationRecord,
    version: ModelVersion | None,
) -> None:
    now = client.get_run(ref.run_id).info.start_time
    metrics = to_mlflow_metrics(result.metrics, now, 0)
    model_id = version.tags.get(MODEL_ID_TAG) if version else None
    if model_id:
        of_model = {f"result/{key}": value for key, value in result.model_metrics.items()}
        metrics += to_mlflow_metrics(of_model, now, 0, model_id)
    # Also what `run --from` takes again.
    left_out = () if result.uses_suite else SUITE_ONLY_KEYS
    asked = {key: value for key, value in job_dict(job).items() if key not in left_out}
    params = [Param(key, value) for key, value in flat_params(asked).items()]
    tags = {"kind": job.kind, **result.tags, **git_tags(Path.cwd())}
    client.log_batch(ref.run_id, metrics, params, [RunTag(*tag) for tag in tags.items()])
    client.log_text(ref.run_id, yaml.safe_dump(asked, sort_keys=False), JOB_FILE)
    client.log_text(ref.run_id, result.report_html, REPORT_FILE)
    for name, numbers in result.json_files.items():
        client.log_dict(ref.run_id, dict(numbers), name)
    client.log_dict(ref.run_id, dict(runtime_info()), "environment.json")
    if version:
        for key, value in {result.version_run_tag: ref.run_id, **result.version_tags}.items():
            client.set_model_version_tag(version.name, version.version, key, value)
