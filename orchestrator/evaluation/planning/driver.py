"""`kind: evaluate` with `planning`: play, write the report, tell MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.data.packing.prepare import open_datasets
from orchestrator.data.store.index import Index
from orchestrator.errors import RequestError
from orchestrator.evaluation.planning.compatibility import (
    build_restorable,
    check_fit,
    load_dynamics,
    picture_size,
)
from orchestrator.evaluation.planning.episodes import Round
from orchestrator.evaluation.planning.report import report
from orchestrator.evaluation.planning.summary import Found, scores_json, verdict
from orchestrator.evaluation.planning.tasks import draw_tasks
from orchestrator.evaluation.planning.units import (
    Shared,
    Taught,
    Unit,
    learn,
    measure,
    needs_data,
    units_of,
)
from orchestrator.evaluation.result_store import Evaluated, Measured, measure_once
from orchestrator.jepa.model_files import WorldModel
from orchestrator.job import Data, EvaluateJob, WeightedSource
from orchestrator.job.config.planning import Planning
from orchestrator.planning.base import Dynamics
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.model_uri import pinned
from orchestrator.tracking.results.planning import record_acting
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import tracking_uri
from orchestrator.units.map_units import spread


@dataclass(frozen=True)
class Acted:
    """What playing showed."""

    verdict: dict[str, Any]
    scores: dict[str, Any]
    page: str


def run_acting(
    job: EvaluateJob,
    planning: Planning,
    progress: Progress,
    *,
    local: bool,
    parent: str | None = None,
) -> Evaluated:
    """Play the job's tasks; the report is in `evaluations/NAME` and on an MLflow run.

    `parent` is the MLflow run of the pipeline whose stage the job is.

    Raises:
        RequestError: there is no such model or world, or they do not fit.
        JobFailed: MLflow did not take the result.
    """
    storage = Storage(job.storage)
    server = tracking_uri(job.track.uri, storage)
    job = job.model_copy(update={"model": pinned(job.model, server)})

    def measure() -> Acted:
        model = load_dynamics(job.model, server)
        with nullcontext() if local else ray_session():
            return acted(job, planning, model, progress, local=local)

    def record(found: Measured) -> RunRef:
        return record_acting(job, storage, found.verdict, found.scores, found.page, parent)

    return measure_once(job, measure, record, progress)


def acted(
    job: EvaluateJob, planning: Planning, model: Dynamics, progress: Progress, *, local: bool
) -> Acted:
    """Play with a model that is at hand; nothing is written.

    Raises:
        RequestError: model, world and data do not fit.
    """
    size = picture_size(planning, model)
    world = build_restorable(planning.world, size)
    tasks = draw_tasks(planning, world)
    check_fit(model, world)
    shared = Shared(planning, model, tasks, size)
    if needs_data(planning):
        shared = replace(shared, taught=_taught(job, shared, progress, local))
    units = units_of(planning, len(tasks.all))
    rounds = _played(job, shared, units, progress, local)
    found = Found(shared, world, units, rounds)
    told = verdict(job, found)
    return Acted(told, scores_json(told, found), report(told, found))


def _taught(job: EvaluateJob, shared: Shared, progress: Progress, local: bool) -> Taught:
    progress.update("learn", 0, 1)
    indexes = _data(job, shared.planning, shared.model, progress, local)
    work = spread(learn, shared, [indexes], cpus=job.cpus, local=local)
    taught = next(iter(work))[1]
    progress.update("learn", 1, 1)
    return taught


def _played(
    job: EvaluateJob, shared: Shared, units: Sequence[Unit], progress: Progress, local: bool
) -> list[Round]:
    """The units' rounds, in their order."""
    found: dict[int, Round] = {}
    total, done = sum(unit.stop - unit.first for unit in units), 0
    progress.update("play", 0, total)
    for number, played in spread(measure, shared, units, cpus=job.cpus, local=local):
        found[number] = played
        done += units[number].stop - units[number].first
        progress.update("play", done, total, {"arm": units[number].arm})
    return [found[number] for number in range(len(units))]


def _data(
    job: EvaluateJob, planning: Planning, model: Dynamics, progress: Progress, local: bool
) -> list[Index]:
    """The datasets that `planning.data` names, or those that the model was trained on.

    Raises:
        RequestError: neither is known, or it is not there.
    """
    if planning.data is not None:
        data = Data(source=planning.data)
    elif isinstance(model, WorldModel):
        data = Data.model_validate(model.config.job["data"])
    else:
        raise RequestError(
            "what this model was trained on is not known",
            where="planning.data",
            mend="name a source or a packed dataset, or leave cloning and nearest out of"
            " planning.arms",
        )
    wanted = data.sources or (WeightedSource(uri=data.source or ""),)
    datasets = Storage(job.storage).sub("datasets")
    return open_datasets(wanted, data, 0.0, datasets, progress, local)[0]
