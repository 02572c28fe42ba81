"""Acting in MLflow: a run with the report, and where it is on the judged version."""

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
from orchestrator.job.evaluate import OF_A_SUITE
from orchestrator.storage import Storage
from orchestrator.tracking.environment import environment, git_tags
from orchestrator.tracking.evaluations import REPORT, SCORES, VERDICT
from orchestrator.tracking.locate import find_version
from orchestrator.tracking.registry import MODEL_ID_TAG
from orchestrator.tracking.run import JOB_FILE, NOTE_TAG, RunRef, flat_params, make_run
from orchestrator.tracking.server import client_of, require_usable, tracking_uri


def record_acting(
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
        _write(client, ref, job, verdict, version)
        client.log_text(ref.run_id, page, REPORT)
        client.log_dict(ref.run_id, dict(verdict), VERDICT)
        client.log_dict(ref.run_id, dict(scores), SCORES)
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
    version: ModelVersion | None,
) -> None:
    now, world = client.get_run(ref.run_id).info.start_time, str(verdict["world"])
    # What of the job says something here; and what `run --from` takes again.
    asked = {key: value for key, value in job_dict(job).items() if key not in OF_A_SUITE}
    metrics = [Metric(key, value, now, 0) for key, value in acting_headline(verdict).items()]
    success = verdict["overall"]["success"]["value"]
    model_id = version.tags.get(MODEL_ID_TAG) if version else None
    if model_id:
        key = f"result/{_plain(world)}_success"
        metrics.append(Metric(key, success, now, 0, model_id=model_id))
    params = [Param(key, value) for key, value in flat_params(asked).items()]
    tags = {
        "kind": job.kind,
        "world": world,
        "protocol": str(verdict["protocol"]),
        **git_tags(Path.cwd()),
    }
    client.log_batch(
        ref.run_id, metrics, params, [RunTag(key, value) for key, value in tags.items()]
    )
    client.log_text(ref.run_id, yaml.safe_dump(asked, sort_keys=False), JOB_FILE)
    client.log_dict(ref.run_id, dict(environment()), "environment.json")
    if version:
        for key, value in (
            ("run", ref.run_id),
            ("protocol", str(verdict["protocol"])),
            ("success", f"{success:.4f}"),
        ):
            name = f"{_plain(world)}.{key}"
            client.set_model_version_tag(version.name, version.version, name, value)


def _plain(world: str) -> str:
    """A world's name as part of a tag's: no slash, no colon."""
    return world.replace("/", "-").replace(":", "-")


def acting_headline(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The verdict as MLflow's metrics: `success`, `random/success`, `gain/random`, ..."""
    rows: dict[str, float] = {}
    for name, arm in verdict["arms"].items():
        prefix = "" if name == "model" else f"{name}/"
        found = arm["success"]
        rows |= {
            f"{prefix}success": found["value"],
            f"{prefix}success_low": found["low"],
            f"{prefix}success_high": found["high"],
            f"{prefix}distance": arm["distance"],
            f"{prefix}decision_ms": arm["ms"],
        }
        if arm["steps"] is not None:
            rows[f"{prefix}steps"] = arm["steps"]
    for name, gain in verdict["gain"].items():
        rows |= {f"gain/{name}": gain["value"], f"gain/{name}_low": gain["low"]}
    return rows


def _note(verdict: Mapping[str, Any]) -> str:
    lines = [
        f"- {name}: **{100 * arm['success']['value']:.1f}%** of {arm['tasks']} goals reached"
        f" [{100 * arm['success']['low']:.0f}, {100 * arm['success']['high']:.0f}]"
        for name, arm in verdict["arms"].items()
    ]
    head = f"`{verdict['model']}` planning in {verdict['world']}"
    tail = f"The whole report: artifact `{REPORT}`. Protocol `{verdict['protocol']}`."
    return "\n".join([head, "", *lines, "", tail])
