"""`kind: tune`: draw, train and score trials, then register the best that did not collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from orchestrator.errors import JobFailed
from orchestrator.job import TuneJob
from orchestrator.job.space import trial_name
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.registry import register
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.studies import open_parent
from orchestrator.tracking.sweeps import record_sweep
from orchestrator.training.placement import nodes_of_cluster
from orchestrator.training.run_record import read_record
from orchestrator.tuning.admission import Room, admit
from orchestrator.tuning.draws import check_draws, importances
from orchestrator.tuning.ledger import Entry, Ledger, ranking, refuse_another
from orchestrator.tuning.page import page, picture
from orchestrator.tuning.scoring import prepare_objective

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


def run_tune(job: TuneJob, progress: Progress) -> Tuned:
    """Run every trial that has not ended yet; what is known stands in `sweeps/NAME`.

    Raises:
        RequestError: nothing was started.
        JobFailed: trials broke off, or none can win; running it again continues.
    """
    storage = Storage(job.storage)
    job = job.model_copy(update={"storage": storage.root})
    folder = storage.sub("sweeps", job.name)
    check_draws(job)
    with ray_session():
        room = admit(job.train.scale, nodes_of_cluster())
        prepare_objective(job, folder, progress)
        refuse_another(job, folder)
        ledger = Ledger(folder)
        tracking = open_parent(
            job, job.train.track.uri, job.train.track.experiment, storage, folder
        )
        waiting = _waiting(ledger, job)
        if waiting:
            broken = _run(job, folder, waiting, room, tracking, progress)
            still = _waiting(ledger, job)
            if still:
                record_sweep(tracking, job, {}, {}, "FAILED")
                raise _unfinished(job, still, broken)
    return _conclude(job, storage, folder, ledger.entries(job.trials), tracking)


def _waiting(ledger: Ledger, job: TuneJob) -> list[int]:
    """Trials that have not ended; those that were begun come first."""
    ended = {entry.number: entry.final for entry in ledger.entries(job.trials)}
    numbers = [number for number in range(job.trials) if not ended.get(number)]
    return sorted(numbers, key=lambda number: (number not in ended, number))


def _run(
    job: TuneJob,
    folder: Storage,
    waiting: Sequence[int],
    room: Room,
    tracking: RunRef,
    progress: Progress,
) -> list[str]:
    from orchestrator.tuning.on_ray import run_trials

    at_once = min(room.trials, len(waiting))
    queued = len(waiting) - at_once
    progress.message(
        f"{len(waiting)} of {job.trials} trials to train, {at_once} at a time"
        f" ({job.train.scale.most_workers} workers x {room.cpus:g} cores each)"
        + (f"; {queued} wait for room" if queued else "")
    )
    return run_trials(job, folder, waiting, room, tracking.run_id, progress)


def _unfinished(job: TuneJob, still: Sequence[int], broken: Sequence[str]) -> JobFailed:
    why = f": {broken[0]}" if broken else ""
    return JobFailed(
        f"{len(still)} of {job.trials} trials have not ended{why}",
        where=f"sweep {job.name}",
        mend="the same command goes on with them, from their checkpoints",
    )


def _conclude(
    job: TuneJob, storage: Storage, folder: Storage, entries: list[Entry], tracking: RunRef
) -> Tuned:
    ranked = ranking(entries)
    winner = ranked[0] if ranked[0].state == "done" else None
    result = {
        "name": job.name,
        "search": job.search,
        "scheduler": job.scheduler,
        "budget": job.budget,
        "keys": list(job.space),
        "log": [key for key, one in job.space.items() if one.loguniform],
        "best": winner.number if winner else None,
        "importance": importances(job, entries),
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
        states = ", ".join(f"{entry.number}: {entry.state}" for entry in ranked)
        raise JobFailed(
            f"no trial of {job.trials} can win ({states})",
            where=folder.uri(REPORT),
            mend="widen the space, or raise budget, under another name",
        )
    return Tuned(result, tracking, folder.uri(REPORT), uri)


def _row(job: TuneJob, entry: Entry) -> dict[str, Any]:
    return {
        "number": entry.number,
        "name": trial_name(job, entry.number),
        "state": entry.state,
        "values": entry.point,
        "steps": entry.steps,
        "objective": entry.value,
        "loss": entry.rungs[-1]["loss"] if entry.rungs else None,
        "rungs": entry.rungs,
        "run_id": entry.run_id,
        "error": entry.error,
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
