"""Probes in MLflow: a run with the scores, the page and the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from orchestrator.errors import JobFailed
from orchestrator.job import EvaluateJob, job_dict
from orchestrator.job.evaluate import OF_A_SUITE
from orchestrator.storage import Storage
from orchestrator.tracking.environment import environment, git_tags
from orchestrator.tracking.run import JOB_FILE, NOTE_TAG, RunRef, flat_params, make_run
from orchestrator.tracking.server import client_of, require_usable, tracking_uri

PAGE, VERDICT = "report.html", "verdict.json"


def record_probe(
    job: EvaluateJob,
    storage: Storage,
    verdict: Mapping[str, Any],
    page: str,
    parent: str | None = None,
) -> RunRef:
    """A run with metrics, page and numbers.

    `parent` is the run of the pipeline whose stage the job is.

    Raises:
        RequestError: the tracking server cannot be used.
        JobFailed: it did not take the result, which is in the storage all the same.
    """
    uri = tracking_uri(job.track.uri, storage)
    require_usable(uri, nodes=1)
    client = client_of(uri)
    run = make_run(client, uri, job.track.experiment, job.name, {NOTE_TAG: _note(verdict)}, parent)
    ref = RunRef(uri, run.info.run_id, run.info.experiment_id)
    # What of the job says something here; and what `run --from` takes again.
    asked = {key: value for key, value in job_dict(job).items() if key not in OF_A_SUITE}
    features = verdict["features"]["model"]
    tags = {
        "kind": job.kind,
        "protocol": str(verdict["protocol"]),
        "model.digest": str(features["model"]),
        "data.digest": ", ".join(features["data"]),
        **git_tags(Path.cwd()),
    }
    now = run.info.start_time
    try:
        client.log_batch(
            ref.run_id,
            [Metric(key, value, now, 0) for key, value in probe_metrics(verdict).items()],
            [Param(key, value) for key, value in flat_params(asked).items()],
            [RunTag(key, value) for key, value in tags.items()],
        )
        client.log_text(ref.run_id, yaml.safe_dump(asked, sort_keys=False), JOB_FILE)
        client.log_text(ref.run_id, page, PAGE)
        client.log_dict(ref.run_id, dict(verdict), VERDICT)
        client.log_dict(ref.run_id, environment(), "environment.json")
        client.set_terminated(ref.run_id, "FINISHED")
    except (MlflowException, OSError) as error:
        raise JobFailed(
            f"MLflow did not take the probe: {error}",
            where=uri,
            mend="page and numbers are in the storage; mend the server and run it again",
        ) from error
    return ref


def probe_metrics(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The scores as MLflow's metrics: `probe/x`, `probe/x_low`, `probe/random/x`, ..."""
    rows: dict[str, float] = {}
    for arm, found in verdict["arms"].items():
        prefix = "probe/" if arm == "model" else f"probe/{arm}/"
        for name, score in found["scores"].items():
            if score["value"] is not None:
                rows[f"{prefix}{name}"] = score["value"]
                rows[f"{prefix}{name}_low"] = score["low"]
                rows[f"{prefix}{name}_high"] = score["high"]
    return rows


def _note(verdict: Mapping[str, Any]) -> str:
    model = verdict["features"]["model"]["model_uri"]
    lines = [
        f"- {name}: {score['metric']} **{score['value']:.3f}** [{score['low']:.3f},"
        f" {score['high']:.3f}]"
        for name, score in verdict["arms"]["model"]["scores"].items()
        if score["value"] is not None
    ]
    head = f"{verdict['head'].capitalize()} probe for {verdict['target']} on `{model}`"
    return "\n".join(
        [head, "", *lines, "", f"The whole page: artifact `{PAGE}`. Protocol"
         f" `{verdict['protocol']}`."]
    )  # fmt: skip
