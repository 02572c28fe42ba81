"""`runs/NAME/run.json`: whose run this is, written by the driver before a worker starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import (
    TrainJob,
    build_job,
    differences,
    fingerprint,
    identity,
    job_dict,
    present_names,
)
from orchestrator.job.loading.former_keys import with_present_names
from orchestrator.storage import Storage, with_retries

FORMAT_VERSION = 1

INHERITED_FILE = "inherited.json"
"""In the folder of a run that began with another run's checkpoint: which, and after what steps."""


@dataclass
class RunRecord:
    """The identity of a run and what it has come to."""

    name: str
    fingerprint: str
    identity: dict[str, Any]
    job: dict[str, Any]
    dataset: str
    mlflow_uri: str = ""
    mlflow_run_id: str = ""
    mlflow_experiment_id: str = ""
    model_uri: str = ""
    launches: int = 0
    """How often a driver began or continued this run."""

    datasets: list[str] = field(default_factory=list)
    """Where the packed data is, one folder per source; the ledger is audited against them."""

    weights: list[float | None] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)
    layout: int = FORMAT_VERSION

    def save(self, folder: Storage) -> None:
        """Write run.json, whole or not at all."""
        folder.write_json("run.json", asdict(self))


def open_record(job: TrainJob, folder: Storage, dataset_digest: str, *, fresh: bool) -> RunRecord:
    """The record of the run that `job` names: continued, or begun.

    Raises:
        RequestError: another job, or other data, already stands under this name.
    """
    old = read_record(folder)
    if old is not None and fresh:
        _archive_run(folder, old)
        old = None
    if old is not None:
        _check_same_job(job, old, dataset_digest, folder)
        old.job = job_dict(job)
        return old
    return RunRecord(job.name, fingerprint(job), identity(job), job_dict(job), dataset_digest)


def read_record(folder: Storage) -> RunRecord | None:
    """The record in a run's folder, or None where no run has begun."""
    if not folder.exists("run.json"):
        return None
    try:
        raw = folder.read_json("run.json")
        return RunRecord(**{**raw, "job": with_present_names(raw["job"], TrainJob)})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise RequestError(
            f"run.json cannot be read: {error}",
            where=folder.uri("run.json"),
            hint="restore the file, or start another run with --fresh",
        ) from None


class RunTakenOver(JobFailed):
    """A later driver goes on with the run: what becomes of it is that one's to say."""


def check_not_taken_over(folder: Storage, launch: int) -> None:
    """Of two drivers of one run only the later may go on.

    Raises:
        RunTakenOver: another driver has launched this run since `launch`.
    """
    record = with_retries(read_record, folder)
    if record is not None and record.launches > launch:
        raise RunTakenOver(
            "another driver continues this run; this one ends, and saves nothing more",
            where=folder.root,
            hint="nothing is lost: follow the other one",
        )


def _check_same_job(job: TrainJob, old: RunRecord, dataset: str, folder: Storage) -> None:
    changes = differences(
        _recorded_identity(old), _json_roundtrip(identity(job)), present_names(job)
    )
    if old.dataset != dataset and not changes:
        changes = [f"the data behind data.source: {old.dataset} -> {dataset}"]
    if changes:
        raise RequestError(
            f"another job already ran under the name '{job.name}'; it differs in:\n    "
            + "\n    ".join(changes),
            where=folder.root,
            hint="choose another name, or start again under this one with --fresh",
        )


def _recorded_identity(old: RunRecord) -> dict[str, Any]:
    """The identity of a run; a key that its release did not have yet counts with its default."""
    try:
        return _json_roundtrip(identity(build_job(old.job))) | old.identity
    except RequestError:
        return old.identity


def _json_roundtrip(value: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def _archive_run(folder: Storage, old: RunRecord) -> None:
    """--fresh loses nothing: the old run moves beside, named by its MLflow run."""
    mark = old.mlflow_run_id[:8] or old.fingerprint[:8]
    parent = Storage(folder.root.rsplit("/", 1)[0])
    name = folder.root.rsplit("/", 1)[1]
    parent.move_tree(name, f"{name}.until-{mark}")
