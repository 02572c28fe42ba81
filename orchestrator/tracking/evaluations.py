"""Evaluations in MLflow: a run with the report, and the verdict beside the version it judges."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import EvaluateJob, job_dict
from orchestrator.storage import Storage
from orchestrator.tracking.environment import environment, git_tags
from orchestrator.tracking.locate import find_version
from orchestrator.tracking.registry import MODEL_ID_TAG
from orchestrator.tracking.run import JOB_FILE, NOTE_TAG, RunRef, flat_params, make_run
from orchestrator.tracking.server import client_of, require_usable, tracking_uri

REPORT, VERDICT, SCORES = "report.html", "verdict.json", "scores.json"
RUN_TAG, PROTOCOL_TAG, QUAD_TAG = "physics.run", "physics.protocol", "physics.quad"


def record_evaluation(
    job: EvaluateJob,
    storage: Storage,
    verdict: Mapping[str, Any],
    scores: Mapping[str, Any],
    page: str,
    parent: str | None = None,
) -> RunRef:
    """A run with metrics, report and numbers; the judged version says where it is.

    `parent` is the run of the pipeline whose stage the job is.

    Raises:
        RequestError: the tracking server cannot be used.
        JobFailed: it did not take the result, which is in the storage all the same.
    """
    uri = tracking_uri(job.track.uri, storage)
    require_usable(uri, nodes=1)
    client = client_of(uri)
    version = _version(client, job.model)
    run = make_run(
        client,
        uri,
        job.track.experiment,
        job.name,
        {NOTE_TAG: _note(verdict)},
        parent,
    )
    ref = RunRef(uri, run.info.run_id, run.info.experiment_id)
    try:
        _write(client, ref, job, verdict, scores, page, version)
        client.set_terminated(ref.run_id, "FINISHED")
    except (MlflowException, OSError) as error:
        raise JobFailed(
            f"MLflow did not take the evaluation: {error}",
            where=uri,
            mend="report and numbers are in the storage; mend the server and run it again",
        ) from error
    return ref


def scores_of(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """The scores of the newest evaluation of a registered version.

    Raises:
        RequestError: it was never evaluated.
    """
    return _artifact(client, version, SCORES)


def verdict_of(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """The verdict of the newest evaluation of a registered version.

    Raises:
        RequestError: it was never evaluated.
    """
    return _artifact(client, version, VERDICT)


def _artifact(client: MlflowClient, version: ModelVersion, name: str) -> dict[str, Any]:
    run_id = version.tags.get(RUN_TAG)
    uri = f"models:/{version.name}/{version.version}"
    if run_id is None:
        raise RequestError(
            f"{uri} was never evaluated",
            mend=f"orchestrator run jobs/physics/evaluate.yaml model={uri}",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run_id, name, folder)
        found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def _write(
    client: MlflowClient,
    ref: RunRef,
    job: EvaluateJob,
    verdict: Mapping[str, Any],
    scores: Mapping[str, Any],
    page: str,
    version: ModelVersion | None,
) -> None:
    model_id = version.tags.get(MODEL_ID_TAG) if version else None
    now = client.get_run(ref.run_id).info.start_time
    metrics = [Metric(key, value, now, 0) for key, value in headline(verdict).items()]
    if model_id:
        metrics += [
            Metric(f"result/physics_{name}", verdict["overall"][name]["value"], now, 0,
                   model_id=model_id)
            for name in ("quad", "pair")
        ]  # fmt: skip
    params = [Param(key, value) for key, value in flat_params(job_dict(job)).items()]
    facts = environment()
    tags = {"kind": job.kind, "protocol": str(verdict["protocol"]), **git_tags(Path.cwd())}
    client.log_batch(
        ref.run_id, metrics, params, [RunTag(key, value) for key, value in tags.items()]
    )
    client.log_text(ref.run_id, yaml.safe_dump(job_dict(job), sort_keys=False), JOB_FILE)
    client.log_text(ref.run_id, page, REPORT)
    client.log_dict(ref.run_id, dict(verdict), VERDICT)
    client.log_dict(ref.run_id, dict(scores), SCORES)
    client.log_dict(ref.run_id, dict(facts), "environment.json")
    if version:
        for key, value in (
            (RUN_TAG, ref.run_id),
            (PROTOCOL_TAG, str(verdict["protocol"])),
            (QUAD_TAG, f"{verdict['overall']['quad']['value']:.4f}"),
        ):
            client.set_model_version_tag(version.name, version.version, key, value)


def headline(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The verdict as MLflow's metrics."""
    rows: dict[str, float] = {}
    for name, value in verdict["overall"].items():
        rows |= {f"{name}_accuracy": value["value"], f"{name}_low": value["low"]}
        rows[f"{name}_high"] = value["high"]
    for scenario, row in verdict["scenarios"].items():
        rows[f"scenario/{scenario}/quad"] = row["quad"]["value"]
        rows[f"scenario/{scenario}/pair"] = row["pair"]["value"]
    for tier in ("sanity", "arrow"):
        rows |= {
            f"{tier}/{name}": row["share"]["value"] for name, row in verdict.get(tier, {}).items()
        }
    gains = {f"gain/{name}": value for name, value in verdict["gain"].items() if value is not None}
    return rows | gains | {f"health/{name}": value for name, value in verdict["health"].items()}


def _version(client: MlflowClient, model: str) -> ModelVersion | None:
    return find_version(client, model) if model.startswith("models:/") else None


def _note(verdict: Mapping[str, Any]) -> str:
    quad, pair = verdict["overall"]["quad"], verdict["overall"]["pair"]
    return (
        f"`{verdict['model']}` on split `{verdict['split']}`:"
        f" **{100 * quad['value']:.1f}%** of quadruplets right"
        f" [{100 * quad['low']:.0f}, {100 * quad['high']:.0f}] (chance 25%),"
        f" {100 * pair['value']:.1f}% of pairs (chance 50%)."
        f"\n\nThe whole report: artifact `{REPORT}`. Protocol `{verdict['protocol']}`."
    )
