"""Studies in MLflow: a parent run with the report, and the trainings as its children."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Param, RunTag

from orchestrator.job import PipelineJob, StudyJob, TuneJob, given_dict, job_dict
from orchestrator.storage import Storage
from orchestrator.tracking.metrics import metric_rows
from orchestrator.tracking.mlflow_errors import asking, recording
from orchestrator.tracking.run import PARENT_TAG, SENT_AGAIN, RunRef, make_run
from orchestrator.tracking.run_inputs import JOB_FILE, flat_params
from orchestrator.tracking.runtime_info import environment, git_tags
from orchestrator.tracking.server import client_of, require_usable, tracking_uri

NOTED = "mlflow.json"


def open_study(
    job: StudyJob, storage: Storage, folder: Storage, parent: str | None = None
) -> RunRef:
    """The study's run, as `open_parent` makes it."""
    return open_parent(job, job.track.uri, job.track.experiment, storage, folder, parent)


def open_parent(
    job: StudyJob | TuneJob | PipelineJob,
    server: str | None,
    experiment: str,
    storage: Storage,
    folder: Storage,
    parent: str | None = None,
) -> RunRef:
    """The run of a job of many trainings, made at its first launch and continued at later ones.

    Args:
        server: the tracking server that the job names.
        folder: where the run is noted.
        parent: the run of the pipeline whose stage the job is.

    Raises:
        RequestError: the tracking server cannot be used, or does not know the run any more.
        NotRecorded: it did not take the job's description.
    """
    uri = tracking_uri(server, storage)
    require_usable(uri, nodes=1)
    client = client_of(uri)
    if folder.exists(NOTED):
        noted = folder.read_json(NOTED)
        if noted["uri"] == uri:
            with asking(uri):
                client.update_run(noted["run_id"], status="RUNNING")
            return RunRef(uri, noted["run_id"], noted["experiment_id"])
    run = make_run(client, uri, experiment, job.name, {"kind": job.kind}, parent)
    ref = RunRef(uri, run.info.run_id, run.info.experiment_id)
    # What four stages leave at its default would hide what they do not.
    given = given_dict(job) if isinstance(job, PipelineJob) else job_dict(job)
    with recording(uri, f"the {job.kind} job", SENT_AGAIN):
        params = [Param(key, value) for key, value in flat_params(given).items()]
        tags = [RunTag(key, value) for key, value in git_tags(Path.cwd()).items()]
        client.log_batch(ref.run_id, [], params[:1000], tags)
        client.log_dict(ref.run_id, dict(environment()), "environment.json")
    folder.write_json(NOTED, {"uri": uri, "run_id": run.info.run_id,
                              "experiment_id": run.info.experiment_id})  # fmt: skip
    return ref


def adopt(ref: RunRef, run_id: str) -> None:
    """Show a training beneath the job that it belongs to.

    Raises:
        NotRecorded: MLflow did not take it.
    """
    with recording(ref.uri, "a training's place beneath its study", SENT_AGAIN):
        client_of(ref.uri).set_tag(run_id, PARENT_TAG, ref.run_id)


def record_study(ref: RunRef, job: StudyJob, result: Mapping[str, Any], page: str) -> None:
    """Scores, ratios and the report, and the end of the run.

    Raises:
        NotRecorded: MLflow did not take them; they are in the storage all the same.
    """
    with recording(ref.uri, f"the {job.kind} job", SENT_AGAIN):
        client = client_of(ref.uri)
        now = client.get_run(ref.run_id).info.start_time
        rows = metric_rows(headline(result), now, 0)
        client.log_batch(ref.run_id, rows)
        client.log_text(ref.run_id, yaml.safe_dump(job_dict(job), sort_keys=False), JOB_FILE)
        client.log_text(ref.run_id, page, "report.html")
        client.log_dict(ref.run_id, dict(result), "study.json")
        client.set_terminated(ref.run_id, "FINISHED")


def headline(result: Mapping[str, Any]) -> dict[str, float]:
    """Means over seeds, and ratios with their intervals, as MLflow's metrics."""
    rows: dict[str, float] = {}
    for panel in result["panels"]:
        place = f"{panel['background']}/{panel['score']}"
        for arm, scores in panel["arms"].items():
            counts = result["clips"] if len(scores[0]) > 1 else [0]
            for n, column in zip(counts, zip(*scores, strict=True), strict=True):
                rows[f"{place}/{arm}/n{n}"] = sum(column) / len(column)
        for arm, ratio in panel["ratios"].items():
            named = {"ratio": ratio["value"], "low": ratio["low"], "high": ratio["high"]}
            rows |= {f"{place}/{arm}/{k}": v for k, v in named.items() if v is not None}
    return rows
