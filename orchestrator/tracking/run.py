"""One MLflow run per training, however often it restarts: the driver makes it."""

from __future__ import annotations

import getpass
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow.artifacts
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.errors import RequestError
from orchestrator.job import TrainJob
from orchestrator.storage import Storage
from orchestrator.tracking.datasets import PackedDataset, dataset_inputs
from orchestrator.tracking.mlflow_errors import (
    MlflowWriteFailed,
    error_reason,
    is_permanent,
    mlflow_read,
    mlflow_write,
    report_mlflow_errors,
)
from orchestrator.tracking.run_description import (
    FinishedRun,
    initial_description,
    result_description,
)
from orchestrator.tracking.run_inputs import (
    JOB_FILE,
    environment_tags,
    log_params,
    log_run_files,
    set_tags,
)
from orchestrator.tracking.run_inputs import flat_params as flat_params
from orchestrator.tracking.runtime_info import runtime_info
from orchestrator.tracking.server import (
    UI_QUERY,
    artifact_root,
    existing_tracking_uri,
    is_server,
    mlflow_client,
    require_reachable,
    require_usable,
    tracking_uri,
)

PICTURES_FOLDER = "pictures"
NOTE_TAG = "mlflow.note.content"
PARENT_TAG = "mlflow.parentRunId"
MlflowStatus = Literal["FINISHED", "FAILED", "KILLED"]
RESEND_HINT = "what was done is kept; when MLflow is back, the same command sends what it lacks"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRef:
    """Where a run is; small, picklable, what every worker gets."""

    tracking_uri: str
    run_id: str
    experiment_id: str

    @property
    def page_url(self) -> str | None:
        """The run's page, when a server shows it."""
        if not is_server(self.tracking_uri):
            return None
        return (
            f"{self.tracking_uri}/#/experiments/{self.experiment_id}/runs/{self.run_id}{UI_QUERY}"
        )


def start_run(
    job: TrainJob,
    storage: Storage,
    *,
    run_id: str | None = None,
    estimate: Mapping[str, Any],
    datasets: Sequence[PackedDataset] = (),
    tags: Mapping[str, str] | None = None,
    nodes: int = 1,
    parent_run_id: str | None = None,
) -> RunRef:
    """Make the job's run, or continue `run_id`; put on it what it is made of.

    `datasets` stand in the order of the job's sources; `nodes` is how many machines will
    write; `parent_run_id` is the run of the sweep or pipeline that this one belongs to.

    Raises:
        RequestError: the tracking server cannot be used, or `run_id` is not on it.
        MlflowWriteFailed: the server did not take what belongs on the run.
    """
    uri = tracking_uri(job.track.uri, storage)
    require_usable(uri, nodes)
    client = mlflow_client(uri)
    facts = runtime_info()
    run = (
        _continue_run(client, run_id)
        if run_id
        else _create_train_run(client, uri, job, parent_run_id)
    )
    ref = RunRef(uri, run.info.run_id, run.info.experiment_id)
    mend = "nothing was trained; see that the server and its artifact store can be written"
    try:
        with mlflow_write(uri, "the run's description", mend):
            log_params(client, run, job)
            set_tags(client, ref.run_id, {**environment_tags(job, facts), **(tags or {})})
            log_run_files(client, ref.run_id, job, estimate, facts)
            if datasets:
                client.log_inputs(ref.run_id, dataset_inputs(datasets, source_names(job)))
    except MlflowWriteFailed:
        with report_mlflow_errors(log.warning):
            finish_run(ref, "FAILED")
        raise
    return ref


def finish_run(ref: RunRef, status: MlflowStatus) -> None:
    """End the run with `status`.

    Raises:
        MlflowWriteFailed: MLflow did not take it; a server that does not answer is not waited for.
    """
    with mlflow_write(ref.tracking_uri, f"the run's end ({status})", RESEND_HINT):
        require_reachable(ref.tracking_uri)
        mlflow_client(ref.tracking_uri).set_terminated(ref.run_id, status)


def write_result_description(ref: RunRef, job: TrainJob, outcome: FinishedRun) -> None:
    """Write what came of the run on top of its page: result, use, pictures, data, what next.

    Raises:
        MlflowWriteFailed: MLflow did not take it.
    """
    with mlflow_write(ref.tracking_uri, "the run's note", RESEND_HINT):
        require_reachable(ref.tracking_uri)
        client = mlflow_client(ref.tracking_uri)
        note = result_description(job, outcome, _newest_pictures(client, ref))
        set_tags(client, ref.run_id, {NOTE_TAG: note})


def _newest_pictures(client: MlflowClient, ref: RunRef) -> dict[str, str]:
    """Caption and address of the newest picture of each name, as the run's own page reads it."""
    found = {}
    for folder in client.list_artifacts(ref.run_id, PICTURES_FOLDER):
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
        MlflowUnavailable: the server does not answer as it should.
    """
    client = mlflow_client(uri)
    if re.fullmatch(r"[0-9a-f]{32}", run):
        return _get_active_run(client, run)
    quoted = run.replace("'", "")
    with mlflow_read(uri):
        found = client.search_runs(
            [e.experiment_id for e in client.search_experiments()],
            f"attributes.run_name = '{quoted}'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
    if not found:
        raise RequestError(
            f"no run is called '{run}'",
            where=uri,
            hint="name a run id, or a run in `orchestrator ui`",
        )
    return found[0]


def job_of_run(uri: str | None, run: str) -> dict[str, Any]:
    """The job file of a run (by id, or the newest of that name) as plain data.

    Raises:
        RequestError: there is no such run, it was not made by a job, or MLflow cannot be read.
    """
    uri = existing_tracking_uri(uri)
    require_usable(uri, nodes=1)
    found = find_run(uri, run)
    with tempfile.TemporaryDirectory() as folder, mlflow_read(uri):
        try:
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{found.info.artifact_uri}/{JOB_FILE}",
                dst_path=folder,
                tracking_uri=uri,
            )
        except (MlflowException, OSError) as error:
            by_server = is_server(uri)
            if isinstance(error, MlflowException) and not is_permanent(error, by_server=by_server):
                raise
            raise RequestError(
                f"run '{run}' has no {JOB_FILE}", where=uri, hint="name a run that a job made"
            ) from error
        data = yaml.safe_load(Path(path).read_text())
    assert isinstance(data, dict)
    return data


def _create_train_run(client: MlflowClient, uri: str, job: TrainJob, parent: str | None) -> Run:
    tags = {NOTE_TAG: initial_description(job)}
    return create_run(client, uri, job.track.experiment, job.name, tags, parent)


def create_run(
    client: MlflowClient,
    uri: str,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    parent_run_id: str | None = None,
) -> Run:
    """A new run of a job, in an experiment that is made when there is none.

    Beneath a `parent_run_id` a name is an identity: a driver that was killed before it could note
    the run finds it again.

    Raises:
        RequestError: the server refuses it.
        MlflowUnavailable: the server does not answer as it should.
    """
    with mlflow_read(uri):
        try:
            experiment_id = _experiment_id(client, uri, experiment)
            if parent_run_id is not None:
                tags = {**tags, PARENT_TAG: parent_run_id}
                found = _find_child_run(client, experiment_id, parent_run_id, name)
                if found is not None:
                    return _continue_run(client, found.info.run_id)
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
            if not is_permanent(error, by_server=is_server(uri)):
                raise
            raise RequestError(
                f"MLflow cannot make a run: {error_reason(error)}",
                where=uri,
                hint="see the server's log",
            ) from error


def _find_child_run(client: MlflowClient, experiment_id: str, parent: str, name: str) -> Run | None:
    query = f"tags.`{PARENT_TAG}` = '{parent}' AND attributes.run_name = '{name}'"
    return next(iter(client.search_runs([experiment_id], query, max_results=1)), None)


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
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
            hint=f"mlflow experiments restore -x {found.experiment_id}, or name another",
        )
    return str(found.experiment_id)


def _continue_run(client: MlflowClient, run_id: str) -> Run:
    run = _get_active_run(client, run_id)
    with mlflow_read(client.tracking_uri):
        client.update_run(run_id, status="RUNNING")
    return run


def _get_active_run(client: MlflowClient, run_id: str) -> Run:
    with mlflow_read(client.tracking_uri):
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
            hint="name the server that has it, or begin another run with --fresh",
        )
    return run
