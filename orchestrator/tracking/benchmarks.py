"""Public benchmarks in MLflow: a run with the report, and where it is on the judged version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from orchestrator.errors import JobFailed
from orchestrator.job import EvaluateJob, job_dict
from orchestrator.storage import Storage
from orchestrator.tracking.environment import environment, git_tags
from orchestrator.tracking.evaluations import REPORT, SCORES, VERDICT
from orchestrator.tracking.locate import find_version
from orchestrator.tracking.registry import MODEL_ID_TAG
from orchestrator.tracking.run import JOB_FILE, NOTE_TAG, RunRef, flat_params, make_run
from orchestrator.tracking.server import client_of, require_usable, tracking_uri


def record_benchmark(
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
    version = find_version(client, job.model) if job.model.startswith("models:/") else None
    run = make_run(client, uri, job.track.experiment, job.name, {NOTE_TAG: _note(verdict)}, parent)
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


def _write(
    client: MlflowClient,
    ref: RunRef,
    job: EvaluateJob,
    verdict: Mapping[str, Any],
    scores: Mapping[str, Any],
    page: str,
    version: ModelVersion | None,
) -> None:
    now = client.get_run(ref.run_id).info.start_time
    rows, kind = benchmark_headline(verdict), str(verdict["benchmark"])
    metrics = [Metric(key, value, now, 0) for key, value in rows.items()]
    model_id = version.tags.get(MODEL_ID_TAG) if version else None
    if model_id:
        metrics += [
            Metric(f"result/{kind}_{name}", value["value"], now, 0, model_id=model_id)
            for name, value in verdict["overall"].items()
        ]
    params = [Param(key, value) for key, value in flat_params(job_dict(job)).items()]
    tags = {
        "kind": job.kind,
        "benchmark": kind,
        "protocol": str(verdict["protocol"]),
        **git_tags(Path.cwd()),
    }
    client.log_batch(
        ref.run_id, metrics, params, [RunTag(key, value) for key, value in tags.items()]
    )
    client.log_text(ref.run_id, yaml.safe_dump(job_dict(job), sort_keys=False), JOB_FILE)
    client.log_text(ref.run_id, page, REPORT)
    client.log_dict(ref.run_id, dict(verdict), VERDICT)
    client.log_dict(ref.run_id, dict(scores), SCORES)
    client.log_dict(ref.run_id, dict(environment()), "environment.json")
    if version:
        for key, value in (("run", ref.run_id), ("protocol", str(verdict["protocol"]))):
            client.set_model_version_tag(version.name, version.version, f"{kind}.{key}", value)


def benchmark_headline(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The verdict as MLflow's metrics."""
    rows: dict[str, float] = {}
    for name, value in verdict["overall"].items():
        rows |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
    for name, row in verdict.get("properties", {}).items():
        rows[f"property/{name}/pair"] = row["pair"]["value"]
        rows[f"property/{name}/auroc"] = row["auroc"]["value"]
    for row in verdict.get("rollout", []):
        ahead = row["tubelets_ahead"]
        for rule, skill in row["skill"].items():
            rows[f"rollout/{ahead:02d}/skill_over_{rule}"] = skill["value"]
    for arm, found in verdict.get("probe", {}).items():
        known = {name: value for name, value in found.items() if value is not None}
        rows |= {f"probe/{arm}/{name}": value for name, value in known.items()}
    gains = {f"gain/{name}": value for name, value in verdict["gain"].items() if value is not None}
    counts = {f"scenes/{name}": float(value) for name, value in verdict["counts"].items()}
    return rows | gains | counts


def _note(verdict: Mapping[str, Any]) -> str:
    found = ", ".join(
        f"{name} **{value['value']:.3f}** [{value['low']:.3f}, {value['high']:.3f}]"
        for name, value in verdict["overall"].items()
    )
    counts = verdict["counts"]
    return (
        f"`{verdict['model']}` on {verdict['benchmark']}: {found}; {counts['scored']} scenes"
        f" scored, {counts['left_out']} left out."
        f"\n\nThe whole report: artifact `{REPORT}`. Protocol `{verdict['protocol']}`."
    )
