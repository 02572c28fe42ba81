"""The `tune` kind: a sweep of trainings, and the best of them registered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator.errors import RequestError
from orchestrator.job import TrainJob, TuneJob
from orchestrator.job.loading.search_space import trial_name
from orchestrator.kinds import Kind, RunContext, archive_folders
from orchestrator.outcome import Outcome, Outputs, Row
from orchestrator.storage import Storage
from orchestrator.text import format_duration

if TYPE_CHECKING:
    from orchestrator.cluster_profile import Profile
    from orchestrator.estimate.kinds import Estimate, EstimateOptions


class TuneKind(Kind[TuneJob]):
    """Trains and scores trials in `sweeps/NAME`; trials that have ended are kept."""

    folder = "sweeps"
    unsupported: ClassVar = {
        "local": "Ray Tune starts the trials; one trial can be run by itself with --from and"
        " --local",
        "profile": "only a training has steps",
    }

    def check(self, job: TuneJob) -> None:
        """The callbacks of its trials can be imported."""
        from orchestrator.training.callbacks.custom import check_callbacks

        check_callbacks(job.train)

    def archive(self, job: TuneJob) -> list[str]:
        """The sweep's folder and the runs of its trials."""
        trials = [f"runs/{trial_name(job, number)}" for number in range(job.trials)]
        return [f"sweeps/{job.name}", *trials]

    def estimate(self, job: TuneJob, profile: Profile | None, options: EstimateOptions) -> Estimate:
        """All trials to their last step: a scheduler ends some of them earlier."""
        from orchestrator.estimate.many_trainings import TrainingGroup, estimate_many_trainings

        optim = job.train.optim.model_copy(update={"steps": job.steps})
        trial = job.train.model_copy(update={"optim": optim})
        trial, at_once = _on_cluster(trial, profile)
        unknown = ["time of scoring the trials: it is not counted"]
        if job.exported_training is None:
            unknown.append("trials of other shapes: the space may change the model, the figures are"
                           " those of the train job as it stands")  # fmt: skip
        return estimate_many_trainings(
            job.kind,
            job.name,
            [TrainingGroup("trials", job.trials, trial)],
            profile,
            options,
            at_once=at_once,
            rows=_budget_rows(job),
            unknown=unknown,
        )

    def run(self, job: TuneJob, context: RunContext) -> Outcome:
        """Run the trials that have not ended, and register the best."""
        from orchestrator.tracking.results.studies import noted_run
        from orchestrator.tracking.results.sweeps import sweep_metrics
        from orchestrator.tuning.sweep import run_tune

        began, storage = time.time(), Storage(job.storage)
        if context.fresh:
            noted = noted_run(storage.subfolder("sweeps", job.name))
            archive_folders(storage, self.archive(job), noted)
        sweep = run_tune(job, context.progress, context.parent_run_id)
        result, seconds = sweep.result, time.time() - began
        best = next(row for row in result["trials"] if row["number"] == result["best"])
        return Outcome(
            kind=job.kind,
            name=job.name,
            storage=job.storage,
            seconds=seconds,
            run_id=sweep.tracking.run_id,
            tracking_uri=sweep.tracking.tracking_uri,
            model_uri=sweep.model_uri,
            steps=best["steps"],
            metrics=sweep_metrics(result),
            verdict=result,
            report=sweep.report,
            next_steps=next_steps(job, best, sweep.tracking.tracking_uri),
            headline=f"{len(result['trials'])} trials in {format_duration(seconds)},"
            f" trial {result['best']} won",
            rows=sweep_rows(result),
            result=f"model {sweep.model_uri}",
            outputs=Outputs(model=sweep.model_uri),
        )


def _on_cluster(trial: TrainJob, profile: Profile | None) -> tuple[TrainJob, int]:
    """A trial with its share of the cluster's cores, and how many run at a time there."""
    if profile is None:
        return trial, 1
    from orchestrator.estimate.placement import WorkerPlacement
    from orchestrator.tuning.capacity import sweep_capacity

    try:
        capacity = sweep_capacity(trial.scale, WorkerPlacement(profile, trial.scale).nodes)
    except RequestError:
        return trial, 1  # not even one trial fits: the estimate says so, and why
    scale = trial.scale.model_copy(update={"cpus": capacity.cpus_per_worker})
    return trial.model_copy(update={"scale": scale}), capacity.max_concurrent_trials


def _budget_rows(job: TuneJob) -> list[Row]:
    """How the search may end before every trial has taken all of its steps."""
    rows = [("search", f"{job.search}, {job.scheduler}")]
    limits = job.limits
    parts = [f"{limits.hours:g} hours"] if limits.hours else []
    parts += [f"{limits.gpu_hours:g} worker-hours"] if limits.gpu_hours else []
    return [*rows, ("limit", ", ".join(parts))] if parts else rows


def next_steps(job: TuneJob, best: Mapping[str, Any], uri: str) -> list[str]:
    """A command that trains the winner once more. A population's winner was not trained from its
    first step on with one set of values: its schedule is on its MLflow run."""
    if best["schedule"]:
        return [f"orchestrator ui --storage {quote(job.storage)}   # schedule.json on the winner"]
    parts = ["orchestrator", "run", "--from", best["run_id"], "--tracking", uri,
             f"name={job.name}-again", f"storage={job.storage}"]  # fmt: skip
    if job.train.scale.cpus is None:
        parts.append("scale.cpus=null")  # the sweep's share of its cluster
    return [f"{' '.join(map(quote, parts))}   # the winner, once more"]


def sweep_rows(result: Mapping[str, Any]) -> list[Row]:
    """A line for each trial, best first; then the slots' use and the keys' importance."""
    rows: list[Row] = []
    for row in result["trials"]:
        values = "  ".join(f"{key}={_format_value(value)}" for key, value in row["values"].items())
        score = "" if row["objective"] is None else f"{row['objective']:.4f}"
        loss = "" if row["loss"] is None else f"loss {row['loss']:.4f}"
        text = f"{row['number']:>3}  {row['state']:<9}  {score:>7}  {loss:<11}  {values}"
        rows.append(("" if rows else "trials", text))
    rows += [("slots", _slot_usage_text(one)) for one in result["slots"][-1:]]
    for i, (key, share) in enumerate(result["importance"].items()):
        rows.append(("" if i else "importance", f"{key} {share:.2f}"))
    return rows


def _slot_usage_text(one: Mapping[str, Any]) -> str:
    """What became of the worker slots of a sweep's last launch."""
    if not one["waited_slot_s"]:
        return f"{one['slots']} for workers; no trial waited for a free one"
    parts = {"training": "training", "starting": "starting groups", "unreserved": "unreserved"}
    shares = ", ".join(f"{text} {100 * one[key]:.1f}%" for key, text in parts.items())
    return f"{one['slots']} for workers, while a trial waited: {shares}"


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value.get("kind", value)) if isinstance(value, dict) else str(value)
