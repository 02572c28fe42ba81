"""`kind: evaluate` with `planning`: play, write the report, tell MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.data.packing.prepare import open_datasets
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import RequestError
from orchestrator.evaluation.planning.compatibility import (
    build_restorable_environment,
    check_compatible,
    image_size,
    load_dynamics,
)
from orchestrator.evaluation.planning.episodes import EpisodeBatch
from orchestrator.evaluation.planning.report import planning_report
from orchestrator.evaluation.planning.summary import PlanningRawResults, scores_json, summarize
from orchestrator.evaluation.planning.tasks import draw_tasks
from orchestrator.evaluation.planning.units import (
    DataModels,
    EpisodeUnit,
    PlanningContext,
    fit_data_models,
    measure_unit,
    needs_data,
    units_of,
)
from orchestrator.evaluation.result_store import (
    EvaluationResultLike,
    SavedEvaluation,
    evaluate_once,
)
from orchestrator.jepa.model_files import WorldModel
from orchestrator.job import Data, EvaluateJob, WeightedSource
from orchestrator.job.config.planning import Planning
from orchestrator.planning.base import PlannableModel
from orchestrator.progress import Progress
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from orchestrator.tracking.model_uri import pin_version
from orchestrator.tracking.results.planning import record_planning
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import tracking_uri
from orchestrator.units.map_units import map_units


@dataclass(frozen=True)
class EvaluationResult:
    """What playing showed."""

    summary: dict[str, Any]
    scores: dict[str, Any]
    report_html: str


def run_planning(
    job: EvaluateJob,
    planning: Planning,
    progress: Progress,
    *,
    local: bool,
    parent: str | None = None,
) -> SavedEvaluation:
    """Play the job's tasks; the report is in `evaluations/NAME` and on an MLflow run.

    `parent` is the MLflow run of the pipeline whose stage the job is.

    Raises:
        RequestError: there is no such model or world, or they do not fit.
        JobFailed: MLflow did not take the result.
    """
    storage = Storage(job.storage)
    server = tracking_uri(job.track.uri, storage)
    job = job.model_copy(update={"model": pin_version(job.model, server)})

    def measure() -> EvaluationResult:
        model = load_dynamics(job.model, server)
        with nullcontext() if local else ray_session():
            return evaluate_planning(job, planning, model, progress, local=local)

    def record(found: EvaluationResultLike) -> RunRef:
        return record_planning(job, storage, found.summary, found.scores, found.report_html, parent)

    return evaluate_once(job, measure, record, progress)


def evaluate_planning(
    job: EvaluateJob, planning: Planning, model: PlannableModel, progress: Progress, *, local: bool
) -> EvaluationResult:
    """Play with a model that is at hand; nothing is written.

    Raises:
        RequestError: model, world and data do not fit.
    """
    size = image_size(planning, model)
    world = build_restorable_environment(planning.environment, size)
    tasks = draw_tasks(planning, world)
    check_compatible(model, world)
    shared = PlanningContext(planning, model, tasks, size)
    if needs_data(planning):
        shared = replace(shared, data_models=_learn_from_data(job, shared, progress, local))
    units = units_of(planning, len(tasks.all))
    rounds = _run_units(job, shared, units, progress, local)
    found = PlanningRawResults(shared, world, units, rounds)
    told = summarize(job, found)
    return EvaluationResult(told, scores_json(told, found), planning_report(told, found))


def _learn_from_data(
    job: EvaluateJob, shared: PlanningContext, progress: Progress, local: bool
) -> DataModels:
    progress.update("learn", 0, 1)
    indexes = _data(job, shared.planning, shared.model, progress, local)
    work = map_units(fit_data_models, shared, [indexes], cpus=job.cpus, local=local)
    taught = next(iter(work))[1]
    progress.update("learn", 1, 1)
    return taught


def _run_units(
    job: EvaluateJob,
    shared: PlanningContext,
    units: Sequence[EpisodeUnit],
    progress: Progress,
    local: bool,
) -> list[EpisodeBatch]:
    """The units' rounds, in their order."""
    found: dict[int, EpisodeBatch] = {}
    total, done = sum(unit.stop - unit.first for unit in units), 0
    progress.update("play", 0, total)
    for number, played in map_units(measure_unit, shared, units, cpus=job.cpus, local=local):
        found[number] = played
        done += units[number].stop - units[number].first
        progress.update("play", done, total, {"arm": units[number].policy})
    return [found[number] for number in range(len(units))]


def _data(
    job: EvaluateJob, planning: Planning, model: PlannableModel, progress: Progress, local: bool
) -> list[DatasetIndex]:
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
            hint="name a source or a packed dataset, or leave cloning and nearest out of"
            " planning.baselines",
        )
    wanted = data.sources or (WeightedSource(uri=data.source or ""),)
    datasets = Storage(job.storage).subfolder("datasets")
    return open_datasets(wanted, data, 0.0, datasets, progress, local)[0]
