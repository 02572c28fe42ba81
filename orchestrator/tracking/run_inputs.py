"""What a run is made of, as MLflow keeps it: params, tags, the job file, the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag

from orchestrator.job import TrainJob, job_dict
from orchestrator.tracking.code_version import log_uncommitted_diff
from orchestrator.tracking.runtime_info import git_tags

JOB_FILE = "job.yaml"
# MLflow's limits of one request and one value.
PARAMS_PER_BATCH = 100
MAX_PARAM_VALUE = 6000
MAX_PARAM_KEY = 250


def log_params(client: MlflowClient, run: Run, job: TrainJob) -> None:
    """Params are written once; what a continued run changed is told in tags."""
    known, params = run.data.params, flat_params(job_dict(job))
    fresh = [Param(key, value) for key, value in params.items() if key not in known]
    for first in range(0, len(fresh), PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=fresh[first : first + PARAMS_PER_BATCH])
    changed = {
        f"changed.{key}": f"{known[key]} -> {value}"
        for key, value in params.items()
        if key in known and known[key] != value
    }
    starts = int(run.data.tags.get("starts", "0")) + 1
    set_tags(client, run.info.run_id, {**changed, "starts": str(starts)})


def flat_params(value: Any, prefix: str = "") -> dict[str, str]:
    """A job as MLflow's params: dotted keys, a list of plain values as one param."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        text = "null" if value is None else str(value)
        short = text if len(text) <= MAX_PARAM_VALUE else text[: MAX_PARAM_VALUE - 3] + "..."
        return {re.sub(r"[^\w\-. :/]", "_", prefix)[:MAX_PARAM_KEY]: short}
    params: dict[str, str] = {}
    for key, item in items:
        params |= flat_params(item, f"{prefix}.{key}" if prefix else key)
    return params


def environment_tags(job: TrainJob, runtime: Mapping[str, Any]) -> dict[str, str]:
    shown = ("orchestrator", "python", "torch", "ray", "deepspeed", "gpu", "cpu")
    return {
        "kind": job.kind,
        **{f"env.{key}": str(runtime[key]) for key in shown if runtime[key] is not None},
        **git_tags(Path.cwd()),
    }


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def log_run_files(
    client: MlflowClient,
    run_id: str,
    job: TrainJob,
    estimate: Mapping[str, Any],
    runtime: Mapping[str, Any],
) -> None:
    client.log_text(run_id, yaml.safe_dump(job_dict(job), sort_keys=False), JOB_FILE)
    client.log_dict(run_id, dict(estimate), "plan.json")
    client.log_dict(run_id, dict(runtime), "environment.json")
    log_uncommitted_diff(client, run_id, Path.cwd())
