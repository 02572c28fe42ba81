"""`kind: tune`: draw, train and score trials, then register the best that did not collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from orchestrator.errors import JobFailed, OrchestratorError
from orchestrator.job import TuneJob
from orchestrator.job.loading.search_space import trial_name
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.mlflow_errors import report_mlflow_errors
from orchestrator.tracking.registry import register_model
from orchestrator.tracking.results.studies import open_parent_run
from orchestrator.tracking.results.sweeps import record_sweep
from orchestrator.tracking.run import RunRef
from orchestrator.training.callbacks.custom import check_callbacks
from orchestrator.training.control.signals import Stopped
from orchestrator.training.placement import available_nodes
from orchestrator.training.run_record import read_record
from orchestrator.tuning.capacity import SweepCapacity, sweep_capacity
from orchestrator.tuning.launches import budget_exhausted, read_launches
from orchestrator.tuning.occupancy import occupancy
from orchestrator.tuning.pbt_exploit import current_population
from orchestrator.tuning.report import render_html, render_png
from orchestrator.tuning.sampling import check_sampled_trials, importances
from orchestrator.tuning.trial_scoring import prepare_holdout_for
from orchestrator.tuning.trial_store import TrialRecord, TrialStore, check_same_sweep, rank_trials

if TYPE_CHECKING:
    from orchestrator.tuning.ray_tune import TuneOutcome

REPORT, RESULT, PICTURE, REGISTERED = "report.html", "result.json", "report.png", "registered.json"


@dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves."""

    result: dict[str, Any]
    tracking: RunRef
    report: str
    """Path or URI of the page."""

    model_uri: str
    """The winner."""


def run_tune(job: TuneJob, progress: Progress, parent: str | None = None) -> SweepResult:
    """Run every trial that has not ended yet; what is known stands in `sweeps/NAME`.

    `parent` is the MLflow run of the pipeline whose stage the job is.

    Raises:
        RequestError: nothing was started.
        JobFailed: trials broke off, or none can win; running it again continues.
        Stopped: a signal asked for it; what ran is saved.
    """
    storage = Storage(job.storage)
    job = job.model_copy(update={"storage": storage.root})
    folder = storage.subfolder("sweeps", job.name)
    check_sampled_trials(job)
    check_callbacks(job.train)
    limit = ""
    with ray_session():
        room = sweep_capacity(job.train.scale, available_nodes(job.train.scale))
        prepare_holdout_for(job, folder, progress)
        check_same_sweep(job, folder)
        ledger = TrialStore(folder)
        tracking = open_parent_run(
            job, job.train.track.uri, job.train.track.experiment, storage, folder, parent
        )
        waiting = _pending_trials(ledger, job)
        limit = budget_exhausted(read_launches(folder), job.limits)
        if waiting and not limit:
            ended = _run(job, folder, waiting, room, tracking, progress)
            limit = ended.limit_reached
            still = _pending_trials(ledger, job)
            if still and (ended.stop_request.signal or not limit):
                raise _unfinished_error(job, still, ended, tracking, progress.message)
    if limit:
        progress.message(_budget_message(limit, job, ledger))
    return _conclude(job, storage, folder, ledger.records(), tracking)


def _pending_trials(ledger: TrialStore, job: TuneJob) -> list[int]:
    """Trials that have not ended; those that were begun come first."""
    entries = ledger.records()
    begun = [entry.number for entry in current_population(entries) if not entry.is_final]
    known = {entry.number for entry in entries}
    return [*begun, *(number for number in range(job.trials) if number not in known)]


def _run(
    job: TuneJob,
    folder: Storage,
    waiting: Sequence[int],
    room: SweepCapacity,
    tracking: RunRef,
    progress: Progress,
) -> TuneOutcome:
    from orchestrator.tuning.ray_tune import run_trials
    from orchestrator.tuning.sweep_state import SweepState

    at_once = min(room.max_concurrent_trials, len(waiting))
    queued = len(waiting) - at_once
    progress.message(
        f"{len(waiting)} of {job.trials} trials to train, {at_once} at a time"
        f" ({room.workers_per_trial} workers x {room.cpus_per_worker:g} cores each)"
        + (f"; {queued} wait for room" if queued else "")
    )
    here = SweepState(job, TrialStore(folder), progress)
    return run_trials(here, folder, waiting, room, tracking.run_id)


def _budget_message(limit: str, job: TuneJob, ledger: TrialStore) -> str:
    entries = current_population(ledger.records())
    ended = sum(entry.is_final for entry in entries)
    return (
        f"{limit} is spent: {ended} of {job.trials} trials have ended,"
        f" {len(entries) - ended} are saved on their way; the same command with a higher limit"
        " goes on with the rest"
    )


def _unfinished_error(
    job: TuneJob,
    still: Sequence[int],
    ended: TuneOutcome,
    tracking: RunRef,
    tell: Callable[[str], None],
) -> OrchestratorError:
    """Why not all trials have ended; the sweep's run ends so, too."""
    if ended.stop_request.signal is not None:
        with report_mlflow_errors(tell):
            record_sweep(tracking, job, {}, {}, "KILLED")
        return Stopped(
            f"stopped and saved: {job.trials - len(still)} of {job.trials} trials have ended",
            where=f"sweep {job.name}",
            hint="the same command goes on with the others, from their checkpoints",
        ).with_signal(ended.stop_request.signal)
    with report_mlflow_errors(tell):
        record_sweep(tracking, job, {}, {}, "FAILED")
    why = f": {ended.errors[0]}" if ended.errors else ""
    return JobFailed(
        f"{len(still)} of {job.trials} trials have not ended{why}",
        where=f"sweep {job.name}",
        hint="the same command goes on with them, from their checkpoints",
        details=ended.details,
    )


def _conclude(
    job: TuneJob, storage: Storage, folder: Storage, entries: list[TrialRecord], tracking: RunRef
) -> SweepResult:
    ranked = rank_trials(entries)
    winner = ranked[0] if ranked[0].state == "done" else None
    result: dict[str, Any] = {
        "name": job.name,
        "search": job.search,
        "scheduler": job.scheduler,
        "budget": job.steps,
        "keys": list(job.space),
        "log": [key for key, one in job.space.items() if one.loguniform],
        "best": winner.number if winner else None,
        "importance": importances(job, entries),
        "slots": _slots(folder, entries, job.train.scale.max_workers),
        "trials": [_row(job, entry) for entry in ranked],
    }
    text = render_html(result)
    folder.write_json(RESULT, result)
    folder.write_bytes(REPORT, text.encode())
    folder.write_bytes(PICTURE, render_png(result))
    uri = _registered(job, storage, folder, winner, tracking) if winner else ""
    files = {REPORT: text.encode(), PICTURE: folder.read_bytes(PICTURE)}
    record_sweep(tracking, job, result, files, "FINISHED" if winner else "FAILED")
    if winner is None:
        states = ", ".join(f"{row['number']}: {row['state']}" for row in result["trials"])
        unended = any(not entry.is_final for entry in ranked)
        raise JobFailed(
            f"no trial of {job.trials} can win ({states})",
            where=folder.uri(REPORT),
            hint="raise the limits of the budget: the same command goes on with what was stopped"
            if unended
            else "widen the space, or raise budget, under another name",
        )
    return SweepResult(result, tracking, folder.uri(REPORT), uri)


def _slots(folder: Storage, entries: list[TrialRecord], workers: int) -> list[dict[str, Any]]:
    """By launch: hours, worker slots, and what became of them while a trial waited."""
    rows = []
    for one in read_launches(folder):
        ended = one.get("stopped", one["ended"])
        rooms = one["rooms"]
        used = occupancy(entries, one["waiting"], rooms, workers, one["began"], ended)
        rows.append(
            {
                "hours": (one["ended"] - one["began"]) / 3600,
                "worker_hours": one["worker_s"] / 3600,
                "slots": workers * max(room for _, room in rooms),
                "waited_slot_s": used.total,
                **used.shares(),
            }
        )
    return rows


def _row(job: TuneJob, entry: TrialRecord) -> dict[str, Any]:
    return {
        "number": entry.number,
        "name": trial_name(job, entry.number),
        "state": entry.state if entry.is_final else "stopped",
        "values": entry.point,
        "steps": entry.steps,
        "objective": entry.objective,
        "loss": entry.rungs[-1]["loss"] if entry.rungs else None,
        "rungs": entry.rungs,
        "run_id": entry.run_id,
        "error": entry.error,
        "parent": entry.parent,
        "inherited": entry.inherited,
        "schedule": entry.schedule,
    }


def _registered(
    job: TuneJob, storage: Storage, folder: Storage, winner: TrialRecord, tracking: RunRef
) -> str:
    """The winner's model: a version with the alias candidate where the train job names a model.

    The same winner is registered once, however often the sweep is run.
    """
    run = storage.subfolder("runs", trial_name(job, winner.number))
    name = job.train.track.register_as
    if name is None:
        return run.uri("model")
    if folder.exists(REGISTERED):
        known = folder.read_json(REGISTERED)
        if known["trial"] == winner.number:
            return str(known["uri"])
    record = read_record(run)
    assert record is not None, "a trial that is done has a record"
    ref = RunRef(record.mlflow_uri, record.mlflow_run_id, record.mlflow_experiment_id)
    scores = {f"sweep/{key}": value for key, value in winner.rungs[-1]["scores"].items()}
    assert winner.objective is not None
    with TemporaryDirectory() as temporary:
        out = Path(temporary) / "model"
        out.mkdir()
        for file in run.subfolder("model").files():
            (out / file.path).write_bytes(run.subfolder("model").read_bytes(file.path))
        version = register_model(
            ref,
            out,
            name,
            metrics={"sweep/objective": winner.objective, **scores},
            tags={
                "run": record.name,
                "fingerprint": record.fingerprint,
                "dataset": record.dataset,
                "sweep": job.name,
                "sweep_run": tracking.run_id,
            },
            step=winner.steps,
        )
    uri = f"models:/{name}/{version}"
    folder.write_json(REGISTERED, {"trial": winner.number, "uri": uri})
    return uri
