"""`run`: one job of any kind, here, to its end."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.errors import RequestError
from orchestrator.job import EvaluateJob, Job, PackJob, TrainJob
from orchestrator.progress import Progress, Silent

if TYPE_CHECKING:
    from orchestrator.training.run_record import RunRecord


@dataclass(frozen=True)
class RunSummary:
    """What a person wants to know when a job has ended."""

    kind: str
    name: str
    storage: str
    seconds: float
    dataset: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    tracking_uri: str = ""
    model_uri: str = ""
    checkpoint: str = ""
    steps: int = 0
    seconds_to_first_step: float | None = None
    clips_per_s: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    """With `profile`: seconds of each part of a step, on rank 0."""

    verdict: dict[str, Any] = field(default_factory=dict)
    """Of an evaluation: every number, with its interval."""

    report: str = ""
    """Of an evaluation: the page that shows it."""

    next_steps: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


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
    """
    progress = progress or Silent()
    if not isinstance(job, TrainJob) and (fresh or profile):
        raise RequestError(
            "--fresh and --profile are for train jobs",
            where=job.name,
            mend=f"a {job.kind} job needs neither: leave them out",
        )
    if isinstance(job, PackJob):
        return _run_pack(job, progress, local)
    if isinstance(job, EvaluateJob):
        return _run_evaluate(job, progress, local)
    return _run_train(job, progress, fresh=fresh, local=local, profile=profile)


def _run_pack(job: PackJob, progress: Progress, local: bool) -> RunSummary:
    from orchestrator.data.pack import run_pack

    began = time.time()
    indexes = run_pack(job, progress, local=local)
    return RunSummary(
        kind="pack",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        dataset=_dataset_facts(indexes),
        next_steps=[f"orchestrator data inspect {index.uri}" for index in indexes],
    )


def _run_evaluate(job: EvaluateJob, progress: Progress, local: bool) -> RunSummary:
    from orchestrator.evaluation.driver import run_evaluate
    from orchestrator.tracking.evaluations import headline

    began = time.time()
    found = run_evaluate(job, progress, local=local)
    return RunSummary(
        kind="evaluate",
        name=job.name,
        storage=job.storage,
        seconds=time.time() - began,
        run_id=found.tracking.run_id,
        tracking_uri=found.tracking.uri,
        model_uri=job.model,
        metrics=headline(found.verdict),
        verdict=found.verdict,
        report=found.report,
    )


def _run_train(
    job: TrainJob, progress: Progress, *, fresh: bool, local: bool, profile: bool
) -> RunSummary:
    from orchestrator.evaluation.during import Evaluations, check_evaluations
    from orchestrator.tracking.run import describe_result
    from orchestrator.training.driver import run_train

    began = time.time()
    check_evaluations(job)
    result = run_train(
        job, progress, fresh=fresh, local=local, profile=profile, open_evaluations=Evaluations
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
    describe_result(result.tracking, job, summary)
    return summary


def _dataset_facts(indexes: list[Any]) -> dict[str, Any]:
    return {
        "clips": sum(index.clips for index in indexes),
        "hours": sum(index.seconds for index in indexes) / 3600,
        "bytes": sum(index.bytes for index in indexes),
        "uris": [index.uri for index in indexes],
    }


def _next_steps(job: TrainJob, record: RunRecord, profile: bool) -> list[str]:
    """Commands that work as they stand, from the folder that the job was run in."""
    name = job.track.register_as
    uri = f"models:/{name}@candidate" if name else record.model_uri
    elsewhere = job.storage != ".orchestrator"
    ui = f"orchestrator ui --storage {job.storage}" if elsewhere else "orchestrator ui"
    tracking = f"MLFLOW_TRACKING_URI={record.mlflow_uri} " if elsewhere else ""
    steps = [
        f"{ui}   # curves, pictures and the model, in a browser",
        f"{tracking}python -c \"from orchestrator import load_model; print(load_model('{uri}'))\"",
    ]
    if profile:
        steps.append(f"{job.storage}/runs/{job.name}/profile/trace.json   # open it in Perfetto")
    return steps
