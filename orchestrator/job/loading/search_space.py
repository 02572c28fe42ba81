"""A sweep's space laid over its train job: what a trial trains, checked before there is one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.errors import RequestError
from orchestrator.job.config.tune import TuneJob
from orchestrator.job.loading.validation_errors import SourceLocations
from orchestrator.job.loading.yaml_source import set_key

Point = dict[str, Any]
"""A trial's values by dotted key, in the order of the space."""


def trial_job_data(job: TuneJob, number: int, point: Mapping[str, Any]) -> dict[str, Any]:
    """The train job of a trial as plain data: the sweep's, with the point's values.

    Raises:
        RequestError: a key leads through a value or past a list's end.
    """
    data = _base(job)
    data["name"] = trial_name(job, number)
    for key in job.space:
        if key in point:
            set_key(data, key, copy.deepcopy(point[key]), f"space.{key}", {})
    return data


def trial_name(job: TuneJob, number: int) -> str:
    """`SWEEP.t0003`: the run's folder, and its name in MLflow."""
    return f"{job.name}.t{number:04d}"


def condition_holds(when: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether a job as it stands so far has the values of a `when`."""
    return all(_value_at(data, key) == value for key, value in when.items())


def build_point(job: TuneJob, value_of: Callable[[str], Any]) -> Point:
    """A point of the space: `value_of` is asked for each key whose condition holds, in order."""
    point: Point = {}
    for key, one in job.space.items():
        if not one.when or condition_holds(one.when, trial_job_data(job, 0, point)):
            point[key] = value_of(key)
    return point


def grid_points(job: TuneJob) -> list[Point]:
    """Every combination of the space's `choice` and `int` values, in the order of the space."""
    points: list[Point] = [{}]
    for key, one in job.space.items():
        values = range(one.whole[0], one.whole[1] + 1) if one.whole else one.choice or ()
        points = [
            {**point, key: value}
            if not one.when or condition_holds(one.when, trial_job_data(job, 0, point))
            else point
            for point in points
            for value in values
        ]
        points = [point for i, point in enumerate(points) if point not in points[:i]]
    return points


def check_space(
    job: TuneJob, locations: SourceLocations, where: str, build_job: Callable[..., Any]
) -> None:
    """Every key exists, and the train job's schema takes both ends or every choice of it.

    Raises:
        RequestError: the first key or value that is refused, with its line.
    """
    build_job(_base(job), source=locations.get(("budget",), where))
    for key, one in job.space.items():
        spot = locations.get(("space", key), where)
        before = _point_enabling(job, key)
        if before is None:
            conditions = ", ".join(f"{name}: {value!r}" for name, value in one.when.items())
            raise RequestError(
                f"space.{key}: its condition ({conditions}) never holds",
                where=spot,
                hint="name values of the job, or of a choice that stands before it in the space",
            )
        for value in one.extreme_values:
            _check_value(job, key, {**before, key: value}, spot, build_job)
    for i, point in enumerate(job.initial_points):
        _check_value(job, f"first.{i}", dict(point), locations.get(("first", i), where), build_job)
    if job.search == "grid" and job.trials > len(grid_points(job)):
        raise RequestError(
            f"trials: {job.trials} of a grid of {len(grid_points(job))}",
            where=locations.get(("trials",), where),
            hint=f"lower it to {len(grid_points(job))}, or name more values",
        )


def _check_value(
    job: TuneJob, name: str, point: Point, spot: str, build: Callable[..., Any]
) -> None:
    try:
        build(trial_job_data(job, 0, point), source=spot)
    except RequestError as error:
        label = name if name.startswith("first.") else f"space.{name}"
        raise RequestError(
            f"{label}: {error.what}",
            where=spot,
            hint=error.hint or "every key of a train job: orchestrator jobs schema train",
        ) from None


def _point_enabling(job: TuneJob, key: str) -> Point | None:
    """Values of keys before `key` under which its condition holds: none, one, or some of them."""
    when = job.space[key].when
    earlier = list(itertools.takewhile(lambda name: name != key, job.space))
    choices = [
        [(name, value) for value in job.space[name].choice or ()]
        for name in earlier
        if job.space[name].choice
    ]
    for some in itertools.chain([()], itertools.product(*choices)):
        point = dict(some)
        if condition_holds(when, trial_job_data(job, 0, point)):
            return {
                name: value for name, value in point.items() if name in _condition_keys(when, point)
            }
    return None


def _condition_keys(when: Mapping[str, Any], point: Point) -> Iterator[str]:
    """The keys of a point that decide a condition."""
    return (name for name in point if any(f"{key}.".startswith(f"{name}.") for key in when))


def _base(job: TuneJob) -> dict[str, Any]:
    data = job.train.model_dump(mode="json", by_alias=True)
    data |= {"name": trial_name(job, 0), "storage": job.storage, "evaluate": []}
    data["optim"]["steps"] = job.steps
    data["track"]["register"] = None
    if job.objective.splits_training_source(job.train):
        data["data"] |= _train_split_sources(job)
    return data


def train_split_path(job: TuneJob, number: int) -> str:
    """Where the index of what is left of a source stands, when a share of it is held out."""
    return f"{job.storage}/sweeps/{job.name}/train-{number}"


def _train_split_sources(job: TuneJob) -> dict[str, Any]:
    """The sources of a trial: what the sweep leaves of the train job's own."""
    if job.train.data.source is not None:
        return {"source": train_split_path(job, 0)}
    weighted = [
        {**one.model_dump(mode="json"), "uri": train_split_path(job, number)}
        for number, one in enumerate(job.train.data.sources)
    ]
    return {"sources": weighted}


def _value_at(data: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        elif isinstance(data, dict):
            data = data.get(part)
        else:
            return None
    return data
