"""Pipelines in MLflow: a parent run, and a run for each stage beneath it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from mlflow.entities import Param, RunTag

from orchestrator.job import PipelineJob, Stage, explicit_job_dict
from orchestrator.storage import Storage
from orchestrator.tracking.metrics import to_mlflow_metrics
from orchestrator.tracking.mlflow_errors import mlflow_write
from orchestrator.tracking.results.studies import open_parent_run
from orchestrator.tracking.run import NOTE_TAG, RESEND_HINT, RunRef, create_run
from orchestrator.tracking.run_inputs import JOB_FILE, flat_params
from orchestrator.tracking.server import mlflow_client, require_reachable


def open_pipeline(job: PipelineJob, storage: Storage, folder: Storage) -> RunRef:
    """The pipeline's run, with the job as it is now; made at its first launch.

    Raises:
        RequestError: the tracking server cannot be used, or does not know the run any more.
        MlflowWriteFailed: it did not take the job's description.
    """
    ref = open_parent_run(job, job.track.uri, job.track.experiment, storage, folder)
    with mlflow_write(ref.tracking_uri, "the pipeline", RESEND_HINT):
        text = yaml.safe_dump(explicit_job_dict(job), sort_keys=False)
        mlflow_client(ref.tracking_uri).log_text(ref.run_id, text, JOB_FILE)
    return ref


def record_stage(
    ref: RunRef,
    job: PipelineJob,
    stage: Stage,
    run_id: str,
    seconds: float,
    metrics: Mapping[str, float],
    outputs: Mapping[str, str],
) -> str:
    """What came of a stage: its numbers on the pipeline's run, its name on its own, whose id this
    gives. A stage whose kind tracks no run (`run_id` is empty) gets one.

    Raises:
        MlflowWriteFailed: MLflow did not take it; what the stage left is in the storage all the
            same.
    """
    tags = {"pipeline": job.name, "pipeline.stage": stage.name}
    tags |= {f"left.{name}": value for name, value in outputs.items() if value}
    with mlflow_write(ref.tracking_uri, f"what stage '{stage.name}' left", RESEND_HINT):
        require_reachable(ref.tracking_uri)
        client = mlflow_client(ref.tracking_uri)
        if not run_id:
            head = {"kind": stage.job.kind}
            run = create_run(
                client, ref.tracking_uri, job.track.experiment, stage.job.name, head, ref.run_id
            )
            run_id = run.info.run_id
            params = [Param(*pair) for pair in flat_params(explicit_job_dict(stage.job)).items()]
            client.log_batch(run_id, params=params)
            client.set_terminated(run_id, "FINISHED")
        client.log_batch(run_id, tags=[RunTag(*pair) for pair in tags.items()])
        # At the start's time: what is sent again after a crash makes no second row.
        now = client.get_run(ref.run_id).info.start_time
        values = {**metrics, "seconds": seconds}
        rows = to_mlflow_metrics(
            {f"{stage.name}/{key}": one for key, one in values.items()}, now, 0
        )
        client.log_batch(ref.run_id, rows, tags=[RunTag(f"stage.{stage.name}", run_id)])
    return run_id


def write_stage_table(ref: RunRef, stages: Sequence[Mapping[str, Any]]) -> None:
    """The table of stages on top of the pipeline's page.

    Raises:
        MlflowWriteFailed: MLflow did not take it.
    """
    lines = [
        f"| {row['name']} | {row['kind']} | {row['state']} | {row['text']} |" for row in stages
    ]
    note = "\n".join(["| stage | kind | state | left |", "|---|---|---|---|", *lines])
    with mlflow_write(ref.tracking_uri, "the table of stages", RESEND_HINT):
        require_reachable(ref.tracking_uri)
        mlflow_client(ref.tracking_uri).set_tag(ref.run_id, NOTE_TAG, note)
