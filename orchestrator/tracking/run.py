"""One MLflow run per training, however often it restarts: the driver makes it."""

from __future__ import annotations

import getpass
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow.artifacts
import yaml
from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import MlflowException

from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import TrainJob, job_dict
from orchestrator.storage import Storage
from orchestrator.tracking.code import log_diff
from orchestrator.tracking.datasets import PackedDataset, dataset_inputs
from orchestrator.tracking.environment import environment, git_tags
from orchestrator.tracking.note import Outcome, opening_note, result_note
from orchestrator.tracking.server import (
    AS_TRAINING,
    artifact_root,
    client_of,
    existing_store,
    is_server,
    require_usable,
    tracking_uri,
)

JOB_FILE = "job.yaml"
PICTURES = "pictures"
NOTE_TAG = "mlflow.note.content"
PARENT_TAG = "mlflow.parentRunId"
# MLflow's limits of one request and one value.
PARAMS_PER_BATCH = 100
MAX_VALUE = 6000
MAX_KEY = 250


@dataclass(frozen=True)
class RunRef:
    """Where a run is; small, picklable, what every worker gets."""

    uri: str
    run_id: str
    experiment_id: str

    @property
    def page(self) -> str | None:
        """The run's page, when a server shows it."""
        if not is_server(self.uri):
            return None
        return f"{self.uri}/#/experiments/{self.experiment_id}/runs/{self.run_id}{AS_TRAINING}"


def start_run(
    job: TrainJob,
    storage: Storage,
    *,
    run_id: str | None = None,
    plan: Mapping[str, Any],
    datasets: Sequence[PackedDataset] = (),
    tags: Mapping[str, str] | None = None,
    nodes: int = 1,
    parent: str | None = None,
) -> RunRef:
    """Make the job's run, or continue `run_id`; put on it what it is made of.

    `datasets` stand in the order of the job's sources; `nodes` is how many machines will
    write; `parent` is the run of the sweep or pipeline that this one belongs to.

    Raises:
        RequestError: the tracking server cannot be used, or `run_id` is not on it.
        JobFailed: the server refused what belongs on the run.
    """
    uri = tracking_uri(job.track.uri, storage)
    require_usable(uri, nodes)
    client = client_of(uri)
    facts = environment()
    run = _continued(client, run_id) if run_id else _created(client, uri, job, parent)
    ref = RunRef(uri, run.info.run_id, run.info.experiment_id)
    try:
        _log_params(client, run, job)
        _set_tags(client, ref.run_id, {**_identity_tags(job, facts), **(tags or {})})
        _log_files(client, ref.run_id, job, plan, facts)
        if datasets:
            client.log_inputs(ref.run_id, dataset_inputs(datasets, source_names(job)))
    except (MlflowException, OSError) as error:
        finish_run(ref, "FAILED")
        raise JobFailed(
            f"MLflow did not take the run's description: {error}",
            where=uri,
            mend="see that the server and its artifact store can be written",
        ) from error
    return ref


def finish_run(ref: RunRef, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """End the run with `status`."""
    client_of(ref.uri).set_terminated(ref.run_id, status)


def describe_result(ref: RunRef, job: TrainJob, outcome: Outcome) -> None:
    """Write what came of the run on top of its page: result, use, pictures, data, what next."""
    client = client_of(ref.uri)
    note = result_note(job, outcome, _newest_pictures(client, ref))
    _set_tags(client, ref.run_id, {NOTE_TAG: note})


def _newest_pictures(client: MlflowClient, ref: RunRef) -> dict[str, str]:
    """Caption and address of the newest picture of each name, as the run's own page reads it."""
    found = {}
    for folder in client.list_artifacts(ref.run_id, PICTURES):
        files = client.list_artifacts(ref.run_id, folder.path)
        newest = max((file.path for file in files if not file.is_dir), default=None)
        if newest is not None:
            name, step = Path(folder.path).name, int(Path(newest).stem.removeprefix("step-"))
            caption = f"{name.replace('_', ' ')}, step {step:,}"
            found[caption] = f"get-artifact?path={newest}&run_uuid={ref.run_id}"
    return found


def source_names(job: TrainJob) -> list[str]:
    """What a person calls the job's datasets: the sources as the job gives them."""
    return [job.data.source] if job.data.source else [source.uri for source in job.data.sources]


def find_run(uri: str, run: str) -> Run:
    """The run with this id, else the newest run of this name.

    Raises:
        RequestError: there is none.
    """
    client = client_of(uri)
    if re.fullmatch(r"[0-9a-f]{32}", run):
        return _existing(client, run)
    experiments = [e.experiment_id for e in client.search_experiments()]
    quoted = run.replace("'", "")
    found = client.search_runs(
        experiments,
        f"attributes.run_name = '{quoted}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if not found:
        raise RequestError(
            f"no run is called '{run}'",
            where=uri,
            mend="name a run id, or a run in `orchestrator ui`",
        )
    return found[0]


def job_of_run(uri: str | None, run: str) -> dict[str, Any]:
    """The job file of a run (by id, or the newest of that name) as plain data.

    Raises:
        RequestError: there is no such run, or it was not made by a job.
    """
    uri = existing_store(uri)
    found = find_run(uri, run)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{found.info.artifact_uri}/{JOB_FILE}",
                dst_path=folder,
                tracking_uri=uri,
            )
        except (MlflowException, OSError) as error:
            raise RequestError(
                f"run '{run}' has no {JOB_FILE}", where=uri, mend="name a run that a job made"
            ) from error
        data = yaml.safe_load(Path(path).read_text())
    assert isinstance(data, dict)
    return data


def _created(client: MlflowClient, uri: str, job: TrainJob, parent: str | None) -> Run:
    tags = {NOTE_TAG: opening_note(job)}
    return make_run(client, uri, job.track.experiment, job.name, tags, parent)


def make_run(
    client: MlflowClient,
    uri: str,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    parent: str | None = None,
) -> Run:
    """A new run of a job, in an experiment that is made when there is none.

    Beneath a `parent` a name is an identity: a driver that was killed before it could note the
    run finds it again.

    Raises:
        RequestError: the server refuses it.
    """
    try:
        experiment_id = _experiment(client, uri, experiment)
        if parent is not None:
            tags = {**tags, PARENT_TAG: parent}
            found = _child(client, experiment_id, parent, name)
            if found is not None:
                return _continued(client, found.info.run_id)
        return client.create_run(
            experiment_id,
            run_name=name,
            tags={
                "mlflow.user": getpass.getuser(),
                "mlflow.source.name": f"orchestrator run {name}",
                "mlflow.source.type": "JOB",
                **tags,
            },
        )
    except MlflowException as error:
        raise RequestError(
            f"MLflow cannot make a run: {error.message}", where=uri, mend="see the server's log"
        ) from error


def _child(client: MlflowClient, experiment_id: str, parent: str, name: str) -> Run | None:
    query = f"tags.`{PARENT_TAG}` = '{parent}' AND attributes.run_name = '{name}'"
    return next(iter(client.search_runs([experiment_id], query, max_results=1)), None)


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment, which is made when there is none."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            # Otherwise MLflow's pages guess what kind of experiment this is.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_root(uri), tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another driver made it in between.
            found = client.get_experiment_by_name(name)
            assert found is not None
    if found.lifecycle_stage != "active":
        raise RequestError(
            f"the experiment '{name}' was deleted",
            where="track.experiment",
            mend=f"mlflow experiments restore -x {found.experiment_id}, or name another",
        )
    return str(found.experiment_id)


def _continued(client: MlflowClient, run_id: str) -> Run:
    run = _existing(client, run_id)
    client.update_run(run_id, status="RUNNING")
    return run


def _existing(client: MlflowClient, run_id: str) -> Run:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        raise RequestError(
            f"run {run_id} is not on {client.tracking_uri} (or was deleted there)",
            where="track.uri",
            mend="name the server that has it, or begin another run with --fresh",
        )
    return run


def _log_params(client: MlflowClient, run: Run, job: TrainJob) -> None:
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
    _set_tags(client, run.info.run_id, {**changed, "starts": str(starts)})


def flat_params(value: Any, prefix: str = "") -> dict[str, str]:
    """A job as MLflow's params: dotted keys, a list of plain values as one param."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        text = "null" if value is None else str(value)
        short = text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."
        return {re.sub(r"[^\w\-. :/]", "_", prefix)[:MAX_KEY]: short}
    params: dict[str, str] = {}
    for key, item in items:
        params |= flat_params(item, f"{prefix}.{key}" if prefix else key)
    return params


def _identity_tags(job: TrainJob, facts: Mapping[str, Any]) -> dict[str, str]:
    shown = ("orchestrator", "python", "torch", "ray", "deepspeed", "gpu", "cpu")
    return {
        "kind": job.kind,
        **{f"env.{key}": str(facts[key]) for key in shown if facts[key] is not None},
        **git_tags(Path.cwd()),
    }


def _set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _log_files(
    client: MlflowClient,
    run_id: str,
    job: TrainJob,
    plan: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    client.log_text(run_id, yaml.safe_dump(job_dict(job), sort_keys=False), JOB_FILE)
    client.log_dict(run_id, dict(plan), "plan.json")
    client.log_dict(run_id, dict(facts), "environment.json")
    log_diff(client, run_id, Path.cwd())
