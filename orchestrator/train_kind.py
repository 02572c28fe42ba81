"""The `train` kind: a world model from video."""

from __future__ import annotations

import time
from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING

from orchestrator.data.packing.kind import dataset_facts, dataset_rows
from orchestrator.job import TrainJob
from orchestrator.job.config.train import EVAL_METRIC_PREFIX
from orchestrator.kinds import Kind, RunContext
from orchestrator.outcome import Outcome, Outputs, Row
from orchestrator.text import format_duration, python_command

if TYPE_CHECKING:
    from orchestrator.cluster_profile import Profile
    from orchestrator.estimate.kinds import Estimate, EstimateOptions
    from orchestrator.training.driver import TrainResult
    from orchestrator.training.run_record import RunRecord

METRIC_LABELS = {
    "train/loss": "loss",
    "health/rankme": "RankMe",
    "health/feature_std": "feature std",
    "health/lidar": "LiDAR",
    "health/teacher_distance": "teacher distance",
    "speed/mfu": "MFU",
}
"""Metrics that the terminal's summary shows where they are logged, in this order."""


class TrainKind(Kind[TrainJob]):
    """Trains a model in `runs/NAME`; the same name continues the same run."""

    folder = "runs"

    def check(self, job: TrainJob) -> None:
        """The evaluations during training fit the model, and its callbacks can be imported."""
        from orchestrator.evaluation.in_training.scheduler import check_evaluations
        from orchestrator.training.callbacks.custom import check_callbacks

        check_evaluations(job)
        check_callbacks(job)

    def archive(self, job: TrainJob) -> list[str]:
        """The run's folder."""
        return [f"runs/{job.name}"]

    def estimate(
        self, job: TrainJob, profile: Profile | None, options: EstimateOptions
    ) -> Estimate:
        """Batch, tokens, parameters, FLOPs, memory, decoding; time and cost on a cluster."""
        from orchestrator.estimate.kinds import estimate_training

        return estimate_training(job, profile, options)

    def run(self, job: TrainJob, context: RunContext) -> Outcome:
        """Train to the last step. With `fresh` the driver archives the old run itself, once the
        data and all else that the new one needs is ready."""
        from orchestrator.evaluation.in_training.scheduler import EvaluationScheduler
        from orchestrator.tracking.mlflow_errors import MlflowWriteFailed
        from orchestrator.tracking.run import write_result_description
        from orchestrator.training.driver import run_train

        began = time.time()
        result = run_train(
            job,
            context.progress,
            fresh=context.fresh,
            local=context.local,
            profile=context.profile,
            open_evaluations=EvaluationScheduler,
            parent_run_id=context.parent_run_id,
        )
        outcome = _outcome(job, result, began, profile=context.profile)
        try:
            write_result_description(result.tracking, job, outcome)
        except MlflowWriteFailed as error:  # all else is recorded
            context.progress.message(f"{error.what}; the same command sends it")
        return outcome


def _outcome(job: TrainJob, result: TrainResult, began: float, *, profile: bool) -> Outcome:
    record, seconds = result.record, time.time() - began
    outcome = record.outcome
    totals, phases = outcome.get("totals", {}), outcome.get("phases", {})
    checkpoint = str(outcome.get("checkpoint", ""))
    dataset = {
        "digest": result.prepared.digest,
        "quarantined": result.prepared.quarantined,
        **dataset_facts(result.prepared.indexes),
    }
    metrics = {**outcome.get("metrics", {}), **result.evaluated}
    first_step = result.first_step_at and result.first_step_at - began
    clips_per_s = totals.get("clips", 0.0) / max(totals.get("seconds", 0.0), 1e-9)
    return Outcome(
        kind=job.kind,
        name=job.name,
        storage=job.storage,
        seconds=seconds,
        dataset=dataset,
        run_id=record.mlflow_run_id,
        tracking_uri=record.mlflow_uri,
        model_uri=record.model_uri,
        checkpoint=checkpoint,
        steps=job.optim.steps,
        seconds_to_first_step=first_step,
        clips_per_s=clips_per_s,
        metrics=metrics,
        phases=phases,
        next_steps=next_steps(job, record, profile=profile),
        headline=train_headline(job.optim.steps, seconds, clips_per_s, first_step),
        rows=[*dataset_rows(dataset), *metric_rows(metrics), *phase_rows(phases)],
        result=f"model {record.model_uri or checkpoint}",
        outputs=Outputs(model=record.model_uri),
    )


def train_headline(
    steps: int, seconds: float, clips_per_s: float, seconds_to_first_step: float | None
) -> str:
    """Steps, time and rate; how long the first step took to come, where one was taken."""
    text = f"{steps:,} steps in {format_duration(seconds)}, {clips_per_s:.3g} clips/s"
    if seconds_to_first_step is not None:
        text += f", first step after {format_duration(seconds_to_first_step)}"
    return text


def metric_rows(metrics: Mapping[str, float]) -> list[Row]:
    """The last loss and health, and what evaluations during the training found at its end."""
    shown = [
        f"{label} {metrics[name]:.4g}" for name, label in METRIC_LABELS.items() if name in metrics
    ]
    rows = [("result", "   ".join(shown))] if shown else []
    return rows + [
        ("", f"{key.split('/')[1]} of the last step: quads right {100 * value:.1f}%")
        for key, value in metrics.items()
        if key.startswith(EVAL_METRIC_PREFIX) and key.endswith("/quad_accuracy")
    ]


def phase_rows(phases: Mapping[str, float]) -> list[Row]:
    """Where the time of a step goes, of a profiled training."""
    parts = [f"{name} {1000 * seconds:.1f} ms" for name, seconds in phases.items()]
    return [("a step", "   ".join(parts))] if parts else []


def next_steps(job: TrainJob, record: RunRecord, *, profile: bool) -> list[str]:
    """Commands that work as they stand, from the folder that the job was run in."""
    name = job.track.register_as
    uri = f"models:/{name}@candidate" if name else record.model_uri
    elsewhere = job.storage != ".orchestrator"
    ui = f"orchestrator ui --storage {quote(job.storage)}" if elsewhere else "orchestrator ui"
    tracking = f"MLFLOW_TRACKING_URI={quote(record.mlflow_uri)} " if elsewhere else ""
    show = python_command(f"from orchestrator import load_model; print(load_model({uri!r}))")
    steps = [
        f"{ui}   # curves, pictures and the model, in a browser",
        f"{tracking}{show}",
    ]
    if profile:
        trace = f"{job.storage}/runs/{job.name}/profile/trace.json"
        steps.append(f"{quote(trace)}   # open it in Perfetto")
    return steps
