"""`run`: one job of any kind, here, to its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from orchestrator.errors import RequestError
from orchestrator.job import (
    EmbedJob,
    EvaluateJob,
    Job,
    PackJob,
    PipelineJob,
    PromoteJob,
    StageJob,
    StudyJob,
    TrainJob,
    TuneJob,
)
from orchestrator.paths import require_writable
from orchestrator.progress import Progress, SilentProgress
from orchestrator.summary import RunSummary
from orchestrator.unexpected import (
    UnexpectedError,
    error_context,
    save_traceback,
    to_orchestrator_error,
)

__all__ = ["RunSummary", "run"]

if TYPE_CHECKING:
    from orchestrator.data.store.index import DatasetIndex
    from orchestrator.evaluation.result_store import SavedEvaluation
    from orchestrator.pipeline.stage_store import StageOutputs
    from orchestrator.storage import Storage
    from orchestrator.training.run_record import RunRecord


def run(
    job: Job,
    *,
    fresh: bool = False,
    local: bool = False,
    profile: bool = False,
    progress: Progress | None = None,
) -> RunSummary:
    """Run a job on the Ray cluster that is there, or on this machine.

    `fresh` begins another run under the same name and sets the old one aside; `local` uses
    one process and no Ray; `profile` leaves a trace and the seconds of each phase.

    Raises:
        RequestError: the request was wrong, nothing was started.
        JobFailed: the job stopped; running it again continues.

    An error that nobody foresaw is raised as it is; its traceback is kept in the run's folder, or
    else in a temporary file.
    """
    try:
        with error_context(f"running the {job.kind} job '{job.name}'"):
            return _run(
                job, progress or SilentProgress(), fresh=fresh, local=local, profile=profile
            )
    except Exception as error:
        told = to_orchestrator_error(error, job.name)
        save_traceback(told, _run_folder(job))
        if told is not error and not isinstance(told, UnexpectedError):
            raise told from error  # a Ray worker raised it
        raise


def _run_folder(job: Job) -> Storage | None:
    """Where what is known of the job's run stands; None where a kind has no such place."""
    from orchestrator.storage import Storage

    known = {
        "train": "runs",
        "embed": "features",
        "evaluate": "evaluations",
        "tune": "sweeps",
        "study": "studies",
        "pipeline": "pipelines",
    }
    return Storage(job.storage).subfolder(known[job.kind], job.name) if job.kind in known else None


def _run(job: Job, progress: Progress, *, fresh: bool, local: bool, profile: bool) -> RunSummary:
    _require_storage(job)
    if isinstance(job, PipelineJob) and not profile:
        return _run_pipeline(job, progress, fresh=fresh, local=local)
    if not isinstance(job, TrainJob) and (fresh or profile):
        raise RequestError(
            "--fresh is for train jobs and pipelines, --profile for train jobs",
            where=job.name,
            hint=f"leave it out: a {job.kind} job has no use for it",
        )
    if isinstance(job, TrainJob):
        return _run_train(job, progress, fresh=fresh, local=local, profile=profile)
    assert not isinstance(job, PipelineJob)
    return _run_stage_job(job, progress, local, None)


def _require_storage(job: Job) -> None:
    """Before anything is started: the job's storage can be written.

    Raises:
        RequestError: it is no folder, or cannot be reached or written.
    """
    from orchestrator.storage import Storage

    storage = Storage(job.storage)
    if not storage.is_remote:
        require_writable(Path(storage.root), where="storage")
        return
    try:
        storage.exists()
    except OSError as error:
        raise RequestError(
            f"{storage.root} cannot be reached: {str(error).splitlines()[0]}",
            where="storage",
            hint="check the bucket's name, the credentials and the endpoint (AWS_ENDPOINT_URL)",
        ) from None


def _run_stage_job(
    job: StageJob, progress: Progress, local: bool, parent: str | None
) -> RunSummary:
    """A job that may be a stage: `parent` is the MLflow run of its pipeline."""
    with error_context(f"running the {job.kind} job '{job.name}'"):
        if isinstance(job, PackJob):
            return _run_pack(job, progress, local)
        if isinstance(job, EmbedJob):
            return _run_embed(job, progress, local)
        if isinstance(job, EvaluateJob):
            return _run_evaluate(job, progress, local, parent)
        if isinstance(job, StudyJob):
            return _run_study(job, progress, local, parent)
        if isinstance(job, TuneJob):
            return _run_tune(job, progress, local, parent)
        if isinstance(job, PromoteJob):
            return _run_promote(job)
        return _run_train(job, progress, fresh=False, local=local, profile=False, parent=parent)


def _run_pipeline(job: PipelineJob, progress: Progress, *, fresh: bool, local: bool) -> RunSummary:
    from orchestrator.pipeline.run_pipeline import run_pipeline

    def run_stage(stage: StageJob, parent: str) -> StageOutputs:
        return _stage_outputs(_run_stage_job(stage, progress, local, parent))

    began = time.time()
    found = run_pipeline(job, progress, run_stage, fresh=fresh, local=local)
    models = [row["model"] for row in found.rows if row["kind"] in ("train", "tune")]
    return RunSummary(
        kind="pipeline",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        run_id=found.tracking.run_id,
        tracking_uri=found.tracking.tracking_uri,
        model_uri=models[-1] if models else "",
        metrics={
            f"{row['name']}/{key}": value
            for row in found.rows
            for key, value in row["metrics"].items()
        },
        stages=found.rows,
    )


def _stage_outputs(summary: RunSummary) -> StageOutputs:
    """What later stages, and the pipeline's own page, need of a stage."""
    from orchestrator.pipeline.stage_store import StageOutputs

    return StageOutputs(
        seconds=summary.seconds,
        run_id=summary.run_id,
        model=summary.model_uri if summary.kind in ("train", "tune") else "",
        data=summary.dataset["uris"][0] if summary.kind == "pack" else "",
        features=summary.features.get("uri", ""),
        report=summary.report,
        metrics=summary.metrics,
        note=summary.note,
    )


def _run_promote(job: PromoteJob) -> RunSummary:
    from orchestrator.evaluation.promotion_gate import promote
    from orchestrator.storage import Storage
    from orchestrator.tracking.server import tracking_uri

    began = time.time()
    server = tracking_uri(job.track.uri, Storage(job.storage))
    promotion, why = promote(job.model, job.alias, server, gated=job.gated)
    note = f"models:/{promotion.name}@{promotion.alias} is version {promotion.version}"
    if promotion.before is not None:
        note += f", before: version {promotion.before}"
    return RunSummary(
        kind="promote",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        tracking_uri=server,
        model_uri=f"models:/{promotion.name}/{promotion.version}",
        note=f"{note} ({why})" if why else note,
    )


def _run_pack(job: PackJob, progress: Progress, local: bool) -> RunSummary:
    from orchestrator.data.packing.pack import run_pack

    began = time.time()
    indexes = run_pack(job, progress, local=local)
    return RunSummary(
        kind="pack",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        dataset=_dataset_facts(indexes),
        next_steps=[f"orchestrator data inspect {quote(index.uri)}" for index in indexes],
    )


def _run_embed(job: EmbedJob, progress: Progress, local: bool) -> RunSummary:
    from orchestrator.features.driver import run_embed

    began = time.time()
    found = run_embed(job, progress, local=local)
    facts = found.info
    shown = ("rows", "shape", "bytes", "failed", "short", "quarantined", "digest", "data")
    return RunSummary(
        kind="embed",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        model_uri=job.model,
        features={
            "uri": found.uri,
            "dtype": job.dtype,
            "pooling": job.pooling,
            "model": facts["model"]["digest"],
            **{key: facts[key] for key in shown},
        },
        next_steps=_after_embed(job, found.uri),
    )


def _after_embed(job: EmbedJob, uri: str) -> list[str]:
    """Commands that work as they stand."""
    reader = "from orchestrator.features import Features"
    steps = [_python_command(f"{reader}; print(Features.open({uri!r}).array().shape)")]
    sources = [job.data.source or "", *(source.uri for source in job.data.sources)]
    if job.pooling != "mean" and any(source.startswith("physics://") for source in sources):
        steps.append(
            f"orchestrator run jobs/physics/probe.yaml {quote(f'storage={job.storage}')}"
            f" probe.features={job.name} probe.random_features=null"
        )
    return steps


def _run_evaluate(
    job: EvaluateJob, progress: Progress, local: bool, parent: str | None
) -> RunSummary:
    began = time.time()
    found, metrics = _evaluate(job, progress, local, parent)
    probed = job.probe is not None
    features = found.summary["features"]["model"] if probed else {}
    return RunSummary(
        kind="evaluate",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        run_id=found.mlflow_run.run_id,
        tracking_uri=found.mlflow_run.tracking_uri,
        model_uri=features["model_uri"] if probed else found.summary["model"],
        metrics=metrics,
        probe=found.summary if probed else {},
        verdict={} if probed else found.summary,
        report=found.report_uri,
    )


def _evaluate(
    job: EvaluateJob, progress: Progress, local: bool, parent: str | None
) -> tuple[SavedEvaluation, dict[str, float]]:
    """Ask what the job asks; what was found, and its numbers as MLflow shows them."""
    found: SavedEvaluation
    if job.probe is not None:
        from orchestrator.evaluation.probes.driver import run_probe
        from orchestrator.tracking.results.probes import probe_metrics

        found = run_probe(job, job.probe, progress, local=local, parent=parent)
        return found, probe_metrics(found.summary)
    if job.planning is not None:
        from orchestrator.evaluation.planning.driver import run_planning
        from orchestrator.tracking.results.planning import planning_metrics

        found = run_planning(job, job.planning, progress, local=local, parent=parent)
        return found, planning_metrics(found.summary)
    if job.benchmark is not None:
        from orchestrator.evaluation.benchmarks.driver import run_benchmark
        from orchestrator.tracking.results.benchmarks import benchmark_metrics

        found = run_benchmark(job, job.benchmark, progress, local=local, parent=parent)
        return found, benchmark_metrics(found.summary)
    from orchestrator.evaluation.suite.driver import run_suite
    from orchestrator.tracking.results.physics import physics_metrics

    found = run_suite(job, progress, local=local, parent=parent)
    return found, physics_metrics(found.summary)


def _run_study(job: StudyJob, progress: Progress, local: bool, parent: str | None) -> RunSummary:
    from orchestrator.ray_session import ray_session
    from orchestrator.study.driver import TrainedCell, run_study
    from orchestrator.tracking.results.studies import study_metrics

    def train(cell: TrainJob) -> TrainedCell:
        found = _run_train(cell, progress, fresh=False, local=local, profile=False)
        return TrainedCell(found.model_uri, found.run_id)

    began = time.time()
    with nullcontext() if local else ray_session():  # one for all cells
        found = run_study(job, progress, train, parent)
    return RunSummary(
        kind="study",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        run_id=found.mlflow_run.run_id,
        tracking_uri=found.mlflow_run.tracking_uri,
        metrics=study_metrics(found.result),
        verdict=found.result,
        report=found.report_uri,
    )


def _run_tune(job: TuneJob, progress: Progress, local: bool, parent: str | None) -> RunSummary:
    if local:
        raise RequestError(
            "--local is not for tune jobs: Ray Tune starts the trials",
            where=job.name,
            hint="leave it out; a single trial can be run by itself with --from and --local",
        )
    from orchestrator.tracking.results.sweeps import sweep_metrics
    from orchestrator.tuning.sweep import run_tune

    began = time.time()
    found = run_tune(job, progress, parent)
    best = next(row for row in found.result["trials"] if row["number"] == found.result["best"])
    return RunSummary(
        kind="tune",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        run_id=found.tracking.run_id,
        tracking_uri=found.tracking.tracking_uri,
        model_uri=found.model_uri,
        steps=best["steps"],
        metrics=sweep_metrics(found.result),
        verdict=found.result,
        report=found.report,
        next_steps=_after_tune(job, best, found.tracking.tracking_uri),
    )


def _after_tune(job: TuneJob, best: dict[str, Any], uri: str) -> list[str]:
    """A command that trains the winner once more. A population's winner has no training of its own
    from the first step on: its schedule is on its run."""
    if best["schedule"]:
        return [f"orchestrator ui --storage {quote(job.storage)}   # schedule.json on the winner"]
    parts = ["orchestrator", "run", "--from", best["run_id"], "--tracking", uri,
             f"name={job.name}-again", f"storage={job.storage}"]  # fmt: skip
    if job.train.scale.cpus is None:
        parts.append("scale.cpus=null")  # the sweep's share of its cluster
    return [f"{' '.join(map(quote, parts))}   # the winner, once more"]


def _run_train(
    job: TrainJob,
    progress: Progress,
    *,
    fresh: bool,
    local: bool,
    profile: bool,
    parent: str | None = None,
) -> RunSummary:
    from orchestrator.evaluation.in_training.scheduler import EvaluationScheduler, check_evaluations
    from orchestrator.tracking.mlflow_errors import MlflowWriteFailed
    from orchestrator.tracking.run import write_result_description
    from orchestrator.training.driver import run_train

    began = time.time()
    check_evaluations(job)
    result = run_train(
        job,
        progress,
        fresh=fresh,
        local=local,
        profile=profile,
        open_evaluations=EvaluationScheduler,
        parent_run_id=parent,
    )
    record, outcome = result.record, result.record.outcome
    totals = outcome.get("totals", {})
    summary = RunSummary(
        kind="train",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        dataset={
            "digest": result.prepared.digest,
            "quarantined": result.prepared.quarantined,
            **_dataset_facts(result.prepared.indexes),
        },
        run_id=record.mlflow_run_id,
        tracking_uri=record.mlflow_uri,
        model_uri=record.model_uri,
        checkpoint=str(outcome.get("checkpoint", "")),
        steps=job.optim.steps,
        seconds_to_first_step=result.first_step_at and result.first_step_at - began,
        clips_per_s=totals.get("clips", 0.0) / max(totals.get("seconds", 0.0), 1e-9),
        metrics={**outcome.get("metrics", {}), **result.evaluated},
        phases=outcome.get("phases", {}),
        next_steps=_next_steps(job, record, profile),
    )
    try:
        write_result_description(result.tracking, job, summary)
    except MlflowWriteFailed as error:  # all else is there
        progress.message(f"{error.what}; the same command sends it")
    return summary


def _dataset_facts(indexes: Sequence[DatasetIndex]) -> dict[str, Any]:
    return {
        "clips": sum(index.num_clips for index in indexes),
        "hours": sum(index.seconds for index in indexes) / 3600,
        "bytes": sum(index.num_bytes for index in indexes),
        "uris": [index.uri for index in indexes],
    }


def _next_steps(job: TrainJob, record: RunRecord, profile: bool) -> list[str]:
    """Commands that work as they stand, from the folder that the job was run in."""
    name = job.track.register_as
    uri = f"models:/{name}@candidate" if name else record.model_uri
    elsewhere = job.storage != ".orchestrator"
    ui = f"orchestrator ui --storage {quote(job.storage)}" if elsewhere else "orchestrator ui"
    tracking = f"MLFLOW_TRACKING_URI={quote(record.mlflow_uri)} " if elsewhere else ""
    show = _python_command(f"from orchestrator import load_model; print(load_model({uri!r}))")
    steps = [
        f"{ui}   # curves, pictures and the model, in a browser",
        f"{tracking}{show}",
    ]
    if profile:
        trace = f"{job.storage}/runs/{job.name}/profile/trace.json"
        steps.append(f"{quote(trace)}   # open it in Perfetto")
    return steps


def _python_command(code: str) -> str:
    """A command for a shell, as readable as it can be."""
    plain = not set(code) & set('"$`\\!')
    return f'python -c "{code}"' if plain else f"python -c {quote(code)}"
