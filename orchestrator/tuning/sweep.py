"""`kind: tune`: draw, train and score trials, then register the best that did not collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from orchestrator.errors import JobFailed, OrchestratorError
from orchestrator.job import TuneJob
from orchestrator.job.search_space import trial_name
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.mlflow_errors import only_told
from orchestrator.tracking.registry import register
from orchestrator.tracking.results.studies import open_parent
from orchestrator.tracking.results.sweeps import record_sweep
from orchestrator.tracking.run import RunRef
from orchestrator.training.driver import Stopped
from orchestrator.training.placement import nodes_for
from orchestrator.training.run_record import read_record
from orchestrator.tuning.capacity import Room, admit
from orchestrator.tuning.launches import read_launches, spent
from orchestrator.tuning.occupancy import occupancy
from orchestrator.tuning.pbt_exploit import members
from orchestrator.tuning.report import page, picture
from orchestrator.tuning.sampling import check_draws, importances
from orchestrator.tuning.trial_scoring import prepare_objective
from orchestrator.tuning.trial_store import Entry, Ledger, ranking, refuse_another

if TYPE_CHECKING:
    from orchestrator.tuning.ray_tune import Ended

REPORT, RESULT, PICTURE, REGISTERED = "report.html", "result.json", "report.png", "registered.json"


@dataclass(frozen=True)
class Tuned:
    """What a sweep leaves."""

    result: dict[str, Any]
    tracking: RunRef
    report: str
    """Path or URI of the page."""

    model_uri: str
    """The winner."""


def run_tune(job: TuneJob, progress: Progress, parent: str | None = None) -> Tuned:
    """Run every trial that has not ended yet; what is known stands in `sweeps/NAME`.

    `parent` is the MLflow run of the pipeline whose stage the job is.

    Raises:
        RequestError: nothing was started.
        JobFailed: trials broke off, or none can win; running it again continues.
        Stopped: a signal asked for it; what ran is saved.
    """
    storage = Storage(job.storage)
    job = job.model_copy(update={"storage": storage.root})
    folder = storage.sub("sweeps", job.name)
    check_draws(job)
    limit = ""
    with ray_session():
        room = admit(job.train.scale, nodes_for(job.train.scale))
        prepare_objective(job, folder, progress)
        refuse_another(job, folder)
        ledger = Ledger(folder)
        tracking = open_parent(
            job, job.train.track.uri, job.train.track.experiment, storage, folder, parent
        )
        waiting = _waiting(ledger, job)
        limit = spent(read_launches(folder), job.limits)
        if waiting and not limit:
            ended = _run(job, folder, waiting, room, tracking, progress)
            limit = ended.limit
            still = _waiting(ledger, job)
            if still and (ended.asked.signal or not limit):
                raise _unfinished(job, still, ended, tracking, progress.message)
    if limit:
        progress.message(_ended_by(limit, job, ledger))
    return _conclude(job, storage, folder, ledger.entries(), tracking)


def _waiting(ledger: Ledger, job: TuneJob) -> list[int]:
    """Trials that have not ended; those that were begun come first."""
    entries = ledger.entries()
    begun = [entry.number for entry in members(entries) if not entry.final]
    known = {entry.number for entry in entries}
    return [*begun, *(number for number in range(job.trials) if number not in known)]


def _run(
    job: TuneJob,
    folder: Storage,
    waiting: Sequence[int],
    room: Room,
    tracking: RunRef,
    progress: Progress,
) -> Ended:
    from orchestrator.tuning.ray_tune import run_trials
    from orchestrator.tuning.sweep_state import Here

    at_once = min(room.trials, len(waiting))
    queued = len(waiting) - at_once
    progress.message(
        f"{len(waiting)} of {job.trials} trials to train, {at_once} at a time"
        f" ({room.workers} workers x {room.cpus:g} cores each)"
        + (f"; {queued} wait for room" if queued else "")
    )
    here = Here(job, Ledger(folder), progress)
    return run_trials(here, folder, waiting, room, tracking.run_id)


def _ended_by(limit: str, job: TuneJob, ledger: Ledger) -> str:
    entries = members(ledger.entries())
    ended = sum(entry.final for entry in entries)
    return (
        f"{limit} is spent: {ended} of {job.trials} trials have ended,"
        f" {len(entries) - ended} are saved on their way; the same command with a higher limit"
        " goes on with the rest"
    )


def _unfinished(
    job: TuneJob,
    still: Sequence[int],
    ended: Ended,
    tracking: RunRef,
    tell: Callable[[str], None],
) -> OrchestratorError:
    """Why not all trials have ended; the sweep's run ends so, too."""
    if ended.asked.signal is not None:
        with only_told(tell):
            record_sweep(tracking, job, {}, {}, "KILLED")
        return Stopped(
            f"stopped and saved: {job.trials - len(still)} of {job.trials} trials have ended",
            where=f"sweep {job.name}",
            mend="the same command goes on with the others, from their checkpoints",
        ).by(ended.asked.signal)
    with only_told(tell):
        record_sweep(tracking, job, {}, {}, "FAILED")
    why = f": {ended.broken[0]}" if ended.broken else ""
    return JobFailed(
        f"{len(still)} of {job.trials} trials have not ended{why}",
        where=f"sweep {job.name}",
        mend="the same command goes on with them, from their checkpoints",
        details=ended.details,
    )


def _conclude(
    job: TuneJob, storage: Storage, folder: Storage, entries: list[Entry], tracking: RunRef
) -> Tuned:
    ranked = ranking(entries)
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
        "slots": _slots(folder, entries, job.train.scale.most_workers),
        "trials": [_row(job, entry) for entry in ranked],
    }
    text = page(result)
    folder.write_json(RESULT, result)
    folder.write_bytes(REPORT, text.encode())
    folder.write_bytes(PICTURE, picture(result))
    uri = _registered(job, storage, folder, winner, tracking) if winner else ""
    files = {REPORT: text.encode(), PICTURE: folder.read_bytes(PICTURE)}
    record_sweep(tracking, job, result, files, "FINISHED" if winner else "FAILED")
    if winner is None:
        states = ", ".join(f"{row['number']}: {row['state']}" for row in result["trials"])
        unended = any(not entry.final for entry in ranked)
        raise JobFailed(
            f"no trial of {job.trials} can win ({states})",
            where=folder.uri(REPORT),
            mend="raise the limits of the budget: the same command goes on with what was stopped"
            if unended
            else "widen the space, or raise budget, under another name",
        )
    return Tuned(result, tracking, folder.uri(REPORT), uri)


def _slots(folder: Storage, entries: list[Entry], workers: int) -> list[dict[str, Any]]:
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
                "waited_slot_s": used.whole,
                **used.shares(),
            }
        )
    return rows


def _row(job: TuneJob, entry: Entry) -> dict[str, Any]:
    return {
        "number": entry.number,
        "name": trial_name(job, entry.number),
        "state": entry.state if entry.final else "stopped",
        "values": entry.point,
        "steps": entry.steps,
        "objective": entry.value,
        "loss": entry.rungs[-1]["loss"] if entry.rungs else None,
        "rungs": entry.rungs,
        "run_id": entry.run_id,
        "error": entry.error,
        "parent": entry.parent,
        "inherited": entry.inherited,
        "schedule": entry.schedule,
    }


def _registered(
    job: TuneJob, storage: Storage, folder: Storage, winner: Entry, tracking: RunRef
) -> str:
    """The winner's model: a version with the alias candidate where the train job names a model.

    The same winner is registered once, however often the sweep is run.
    """
    run = storage.sub("runs", trial_name(job, winner.number))
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
    assert winner.value is not None
    with TemporaryDirectory() as temporary:
        out = Path(temporary) / "model"
        out.mkdir()
        for file in run.sub("model").files():
            (out / file.path).write_bytes(run.sub("model").read_bytes(file.path))
        version = register(
            ref,
            out,
            name,
            metrics={"sweep/objective": winner.value, **scores},
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
