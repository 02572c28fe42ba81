"""Sweeps in MLflow: what came of the parent run, and of each trial beneath it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Metric, RunTag

from orchestrator.job import TuneJob, job_dict
from orchestrator.tracking.metrics import to_mlflow_metrics
from orchestrator.tracking.mlflow_errors import mlflow_write
from orchestrator.tracking.run import RESEND_HINT, MlflowStatus, RunRef
from orchestrator.tracking.run_inputs import JOB_FILE
from orchestrator.tracking.server import mlflow_client, require_reachable

MLFLOW_STATUS = {
    "done": "FINISHED",
    "pruned": "KILLED",
    "collapsed": "KILLED",
    "failed": "FAILED",
    "stopped": "KILLED",
}


def record_sweep(
    ref: RunRef,
    job: TuneJob,
    result: Mapping[str, Any],
    files: Mapping[str, bytes],
    status: MlflowStatus,
) -> None:
    """Put the job, the result, the pages and the best trial on the run, and end it.

    `result` is empty where trials still have to be trained.

    Raises:
        NotRecorded: MLflow did not take them; they are in the storage all the same.
    """
    with mlflow_write(ref.tracking_uri, f"the {job.kind} job", RESEND_HINT):
        require_reachable(ref.tracking_uri)
        client = mlflow_client(ref.tracking_uri)
        now = client.get_run(ref.run_id).info.start_time
        client.log_text(ref.run_id, yaml.safe_dump(job_dict(job), sort_keys=False), JOB_FILE)
        if result:
            client.log_dict(ref.run_id, dict(result), "sweep.json")
            metrics, tags = _best_trial(result)
            rows = to_mlflow_metrics(metrics, now, 0)
            client.log_batch(ref.run_id, rows, tags=[RunTag(*pair) for pair in tags.items()])
            for row in result["trials"]:
                _record_trial(ref, row)
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            client.log_artifacts(ref.run_id, folder)
        client.set_terminated(ref.run_id, status)


def sweep_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The best objective, and how trials ended, as MLflow's metrics."""
    return _best_trial(result)[0]


def _best_trial(result: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    states = [row["state"] for row in result["trials"]]
    metrics = {f"trials/{state}": float(states.count(state)) for state in MLFLOW_STATUS}
    if result["best"] is None:
        return metrics, {}
    best = next(row for row in result["trials"] if row["number"] == result["best"])
    metrics["best/objective"] = best["objective"]
    tags = {f"best.{key}": str(value) for key, value in best["values"].items()}
    return metrics, {"best.trial": best["name"], "best.run": best["run_id"], **tags}


def _record_trial(ref: RunRef, row: Mapping[str, Any]) -> None:
    """The objective by step, and how the trial ended, on its own run."""
    if not row["run_id"]:
        return
    client = mlflow_client(ref.tracking_uri)
    run = client.get_run(row["run_id"])
    start = run.info.start_time
    metrics = [
        Metric("sweep/objective", rung["objective"], start, rung["steps"])
        for rung in row["rungs"]
        if rung["objective"] is not None
    ]
    tags = {"sweep.state": row["state"], "sweep.run": ref.run_id}
    why = row["error"] or (", ".join(row["rungs"][-1]["shut"]) if row["rungs"] else "")
    if why:
        tags["sweep.why"] = why
    if row["parent"] is not None:
        tags |= {"sweep.parent": str(row["parent"]), "sweep.inherited": row["inherited"]["sha256"]}
        client.log_dict(row["run_id"], {"schedule": row["schedule"]}, "schedule.json")
        metrics += [
            Metric(f"schedule/{key}", float(value), start, part["from"])
            for part in row["schedule"]
            for key, value in part["values"].items()
            if isinstance(value, int | float)
        ]
    client.log_batch(row["run_id"], metrics, tags=[RunTag(*pair) for pair in tags.items()])
    if run.info.status != MLFLOW_STATUS[row["state"]]:
        client.set_terminated(row["run_id"], MLFLOW_STATUS[row["state"]])
