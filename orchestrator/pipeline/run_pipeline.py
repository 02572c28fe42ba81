"""`kind: pipeline`: one stage after the other, from what the former ones left."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from orchestrator.errors import OrchestratorError, RequestError
from orchestrator.job import PipelineJob, Stage, StageJob, build_job, explicit_job_dict
from orchestrator.job.config.stage_references import substitute_references
from orchestrator.pipeline.compatibility import check_stages
from orchestrator.pipeline.stage_store import StageOutputs, StageStore, archive_stages
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.mlflow_errors import report_mlflow_errors
from orchestrator.tracking.results.pipelines import open_pipeline, record_stage, write_stage_table
from orchestrator.tracking.run import RunRef, finish_run
from orchestrator.training.control.signals import Stopped, StopRequest

RunStage = Callable[[StageJob, str], StageOutputs]
"""Runs one job to its end, or goes on with it; takes the id of the pipeline's MLflow run."""


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline leaves."""

    rows: list[dict[str, Any]]
    """Of each stage: name, kind, state (`done` now, `kept` from before), and what it left."""

    tracking: RunRef


def run_pipeline(
    job: PipelineJob, progress: Progress, run_stage: RunStage, *, fresh: bool, local: bool
) -> PipelineResult:
    """Run every stage that is not done yet; what is known stands in `pipelines/NAME`.

    Raises:
        RequestError: a stage does not fit another, or differs from what has begun under its name.
        JobFailed: a stage failed; running it again goes on there.
        Stopped: a signal asked for it.
    """
    storage = Storage(job.storage)
    folder = storage.subfolder("pipelines", job.name)
    check_stages(job, local=local)
    if fresh:
        archive_stages(job, storage)
    ledger = StageStore(folder)
    ledger.check_unchanged(job)
    # One cluster for all stages.
    with nullcontext() if local else ray_session(), _sigterm_as_interrupt() as asked:
        tracking = open_pipeline(job, storage, folder)
        with _finishing_run(tracking, job.name, asked, progress.message):
            rows = _run_stages(job, ledger, tracking, progress, run_stage)
    return PipelineResult(rows, tracking)


def _run_stages(
    job: PipelineJob, ledger: StageStore, tracking: RunRef, progress: Progress, run_stage: RunStage
) -> list[dict[str, Any]]:
    left: dict[str, StageOutputs] = {}
    rows = [_row(stage, "waits", None) for stage in job.stages]
    for i, stage in enumerate(job.stages):
        head = f"stage {i + 1}/{len(job.stages)} {stage.name}"
        entry = ledger.read(stage)
        if entry is not None and entry.left is not None:
            progress.message(f"{head}: done before")
            left[stage.name] = entry.left
            rows[i] = _row(stage, "kept", entry.left)
            continue
        progress.message(f"{head}: {stage.job.kind}{', goes on' if entry else ''}")
        write_stage_table(tracking, [*rows[:i], _row(stage, "goes on", None), *rows[i + 1 :]])
        ledger.mark_started(stage)
        with _errors_name_stage(stage, ledger):
            found = run_stage(_resolve_references(stage, left), tracking.run_id)
            found = _tell(job, stage, found, tracking)
        ledger.mark_done(stage, found)
        left[stage.name] = found
        rows[i] = _row(stage, "done", found)
    write_stage_table(tracking, rows)
    return rows


def _resolve_references(stage: Stage, left: dict[str, StageOutputs]) -> StageJob:
    """The stage's job with what former stages left in place of its references."""
    if not stage.references:
        return stage.job
    data = substitute_references(
        explicit_job_dict(stage.job), lambda name, output: left[name].output(output)
    )
    job = build_job(data, source=f"stage '{stage.name}'")
    assert not isinstance(job, PipelineJob)
    return job


def _tell(job: PipelineJob, stage: Stage, found: StageOutputs, tracking: RunRef) -> StageOutputs:
    outputs = {"model": found.model, "data": found.data, "features": found.features}
    run_id = record_stage(tracking, job, stage, found.run_id, found.seconds, found.metrics, outputs)
    return replace(found, run_id=run_id)


def _row(stage: Stage, state: str, left: StageOutputs | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": stage.name, "kind": stage.job.kind, "state": state, "text": ""}
    if left is None:
        return row
    text = left.model or left.features or left.data
    if left.note or stage.job.kind not in ("train", "tune", "embed", "pack"):
        text = left.note or left.report
    return row | {
        "text": text,
        "seconds": left.seconds,
        "run_id": left.run_id,
        "model": left.model,
        "data": left.data,
        "features": left.features,
        "report": left.report,
        "metrics": dict(left.metrics),
    }


@contextmanager
def _errors_name_stage(stage: Stage, ledger: StageStore) -> Iterator[None]:
    """An error of a stage says whose it is; one of a request that was wrong is no beginning."""
    try:
        yield
    except OrchestratorError as error:
        if isinstance(error, RequestError):
            ledger.forget(stage)
        error.where = f"stage '{stage.name}'" + (f": {error.where}" if error.where else "")
        raise


@contextmanager
def _finishing_run(
    tracking: RunRef, name: str, asked: StopRequest, tell: Callable[[str], None]
) -> Iterator[None]:
    """The pipeline's run ends as the pipeline ended."""
    try:
        yield
    except Stopped:
        with report_mlflow_errors(tell):
            finish_run(tracking, "KILLED")
        raise
    except KeyboardInterrupt:
        with report_mlflow_errors(tell):
            finish_run(tracking, "KILLED")
        raise Stopped(
            "stopped; stages that are done are kept",
            where=name,
            hint="the same command goes on with the stage that was stopped",
        ).with_signal(asked.signal) from None
    except BaseException:
        with report_mlflow_errors(tell):
            finish_run(tracking, "FAILED")
        raise
    finish_run(tracking, "FINISHED")


@contextmanager
def _sigterm_as_interrupt() -> Iterator[StopRequest]:
    """Within it SIGTERM ends a stage as Ctrl-C does; a training saves first, by its own rule."""
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_duplicate(number):
            return
        asked.signal, asked.requested_at = signal.Signals(number), time.monotonic()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
