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
from orchestrator.job import PipelineJob, Stage, StageJob, build_job, given_dict
from orchestrator.job.config.stage_references import replaced
from orchestrator.pipeline.compatibility import check_stages
from orchestrator.pipeline.stage_store import Ledger, Left, set_aside
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.mlflow_errors import only_told
from orchestrator.tracking.results.pipelines import note_stages, open_pipeline, record_stage
from orchestrator.tracking.run import RunRef, finish_run
from orchestrator.training.control.signals import Asked
from orchestrator.training.driver import Stopped

RunStage = Callable[[StageJob, str], Left]
"""Runs one job to its end, or goes on with it; takes the id of the pipeline's MLflow run."""


@dataclass(frozen=True)
class Piped:
    """What a pipeline leaves."""

    rows: list[dict[str, Any]]
    """Of each stage: name, kind, state (`done` now, `kept` from before), and what it left."""

    tracking: RunRef


def run_pipeline(
    job: PipelineJob, progress: Progress, run_stage: RunStage, *, fresh: bool, local: bool
) -> Piped:
    """Run every stage that is not done yet; what is known stands in `pipelines/NAME`.

    Raises:
        RequestError: a stage does not fit another, or differs from what has begun under its name.
        JobFailed: a stage failed; running it again goes on there.
        Stopped: a signal asked for it.
    """
    storage = Storage(job.storage)
    folder = storage.sub("pipelines", job.name)
    check_stages(job, local=local)
    if fresh:
        set_aside(job, storage)
    ledger = Ledger(folder)
    ledger.refuse_another(job)
    # One cluster for all stages.
    with nullcontext() if local else ray_session(), _ended_by_sigterm() as asked:
        tracking = open_pipeline(job, storage, folder)
        with _closing(tracking, job.name, asked, progress.message):
            rows = _each(job, ledger, tracking, progress, run_stage)
    return Piped(rows, tracking)


def _each(
    job: PipelineJob, ledger: Ledger, tracking: RunRef, progress: Progress, run_stage: RunStage
) -> list[dict[str, Any]]:
    left: dict[str, Left] = {}
    rows = [_row(stage, "waits", None) for stage in job.stages]
    for i, stage in enumerate(job.stages):
        head = f"stage {i + 1}/{len(job.stages)} {stage.name}"
        entry = ledger.entry(stage)
        if entry is not None and entry.left is not None:
            progress.message(f"{head}: done before")
            left[stage.name] = entry.left
            rows[i] = _row(stage, "kept", entry.left)
            continue
        progress.message(f"{head}: {stage.job.kind}{', goes on' if entry else ''}")
        note_stages(tracking, [*rows[:i], _row(stage, "goes on", None), *rows[i + 1 :]])
        ledger.begin(stage)
        with _naming(stage, ledger):
            found = run_stage(_resolved(stage, left), tracking.run_id)
            found = _tell(job, stage, found, tracking)
        ledger.done(stage, found)
        left[stage.name] = found
        rows[i] = _row(stage, "done", found)
    note_stages(tracking, rows)
    return rows


def _resolved(stage: Stage, left: dict[str, Left]) -> StageJob:
    """The stage's job with what former stages left in place of its references."""
    if not stage.references:
        return stage.job
    data = replaced(given_dict(stage.job), lambda name, output: left[name].output(output))
    job = build_job(data, where=f"stage '{stage.name}'")
    assert not isinstance(job, PipelineJob)
    return job


def _tell(job: PipelineJob, stage: Stage, found: Left, tracking: RunRef) -> Left:
    outputs = {"model": found.model, "data": found.data, "features": found.features}
    run_id = record_stage(tracking, job, stage, found.run_id, found.seconds, found.metrics, outputs)
    return replace(found, run_id=run_id)


def _row(stage: Stage, state: str, left: Left | None) -> dict[str, Any]:
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
def _naming(stage: Stage, ledger: Ledger) -> Iterator[None]:
    """An error of a stage says whose it is; one of a request that was wrong is no beginning."""
    try:
        yield
    except OrchestratorError as error:
        if isinstance(error, RequestError):
            ledger.withdraw(stage)
        error.where = f"stage '{stage.name}'" + (f": {error.where}" if error.where else "")
        raise


@contextmanager
def _closing(
    tracking: RunRef, name: str, asked: Asked, tell: Callable[[str], None]
) -> Iterator[None]:
    """The pipeline's run ends as the pipeline ended."""
    try:
        yield
    except Stopped:
        with only_told(tell):
            finish_run(tracking, "KILLED")
        raise
    except KeyboardInterrupt:
        with only_told(tell):
            finish_run(tracking, "KILLED")
        raise Stopped(
            "stopped; stages that are done are kept",
            where=name,
            mend="the same command goes on with the stage that was stopped",
        ).by(asked.signal) from None
    except BaseException:
        with only_told(tell):
            finish_run(tracking, "FAILED")
        raise
    finish_run(tracking, "FINISHED")


@contextmanager
def _ended_by_sigterm() -> Iterator[Asked]:
    """Within it SIGTERM ends a stage as Ctrl-C does; a training saves first, by its own rule."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.repeats(number):
            return
        asked.signal, asked.at = signal.Signals(number), time.monotonic()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
