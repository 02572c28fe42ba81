"""Which values a trial gets: Optuna's samplers, asked in a way that remembers nothing.

A draw is a function of the sweep's seed, the trial's number and what is known of other trials.
The ledger is thus the searcher's whole memory; Ray Tune's own OptunaSearch keeps its in a pickle,
and its draws depend on the order in which trials happened to be asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.errors import RequestError
from orchestrator.job import TuneJob, build_job
from orchestrator.job.config.tune import Dimension
from orchestrator.job.loading.search_space import Point, build_point, grid_points, trial_job_data
from orchestrator.randomness import generator
from orchestrator.tuning.trial_store import TrialRecord

optuna.logging.set_verbosity(logging.WARNING)


def sample_point(job: TuneJob, number: int, finished: Sequence[TrialRecord]) -> Point:
    """The values of a trial; `finished` are the trials that have ended."""
    if job.search == "grid":
        return grid_points(job)[number]
    seed = int(generator(job.seed, number, "tune").integers(2**31))
    study = optuna.create_study(direction="maximize", sampler=_sampler(job, seed))
    if job.search == "tpe":
        study.add_trials([to_optuna_trial(job, entry) for entry in finished if entry.is_final])
    if number < len(job.initial_points):
        study.enqueue_trial(_params(job, job.initial_points[number]))
    trial = study.ask()
    return build_point(job, lambda key: _suggest(trial, key, job.space[key]))


def check_sampled_trials(job: TuneJob) -> None:
    """Build every trial that can be foreseen; `tpe` is asked as if nothing were ever learnt.

    Raises:
        RequestError: values that each were good do not go together.
    """
    for number in range(job.trials):
        point = sample_point(job, number, [])
        try:
            build_job(trial_job_data(job, number, point))
        except RequestError as error:
            values = ", ".join(f"{key}={value!r}" for key, value in point.items())
            raise RequestError(
                f"trial {number} cannot be trained: {error.what}",
                where=f"space: {values}",
                hint="narrow the space, or make one key depend on another with when",
            ) from None


def to_optuna_trial(job: TuneJob, entry: TrialRecord) -> FrozenTrial:
    """A trial as Optuna knows it. One that collapsed is worse than any that was scored."""
    params = _params(job, entry.point)
    distributions = {key: _distribution(job.space[key]) for key in params}
    scores = {row["steps"]: row["objective"] for row in entry.rungs if row["objective"] is not None}
    if entry.state == "done":
        return create_trial(
            state=TrialState.COMPLETE,
            value=entry.objective,
            params=params,
            distributions=distributions,
            intermediate_values=scores,
        )
    state = TrialState.FAIL if entry.state == "failed" else TrialState.PRUNED
    return create_trial(
        state=state,
        params=params,
        distributions=distributions,
        intermediate_values=scores if entry.state == "pruned" else {},
    )


def importances(job: TuneJob, entries: Sequence[TrialRecord]) -> dict[str, float]:
    """Share of each key in what decides the objective (PED-ANOVA), the largest first.

    Only keys that every whole trial has, and only where there are enough of them to say.
    """
    whole = [entry for entry in entries if entry.state == "done"]
    if len(whole) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials([to_optuna_trial(job, entry) for entry in whole])
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):  # no key varies among them
        return {}
    return {key: float(share) for key, share in found.items()}


MIN_TRIALS_FOR_IMPORTANCE = 4


def _sampler(job: TuneJob, seed: int) -> optuna.samplers.BaseSampler:
    if job.search == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return dimension.choice[trial.suggest_categorical(key, range(len(dimension.choice)))]
    if dimension.whole is not None:
        return trial.suggest_int(key, *dimension.whole)
    if dimension.loguniform is not None:
        return trial.suggest_float(key, *dimension.loguniform, log=True)
    assert dimension.uniform is not None
    return trial.suggest_float(key, *dimension.uniform)


def _distribution(one: Dimension) -> BaseDistribution:
    if one.choice is not None:
        return CategoricalDistribution(range(len(one.choice)))
    if one.whole is not None:
        return IntDistribution(*one.whole)
    span = one.loguniform or one.uniform
    assert span is not None
    return FloatDistribution(*span, log=one.loguniform is not None)


def _params(job: TuneJob, point: Point) -> dict[str, Any]:
    """A point as Optuna spells it: choices by their position."""
    return {key: _param(job.space[key], value) for key, value in point.items()}


def _param(one: Dimension, value: Any) -> Any:
    if one.choice is not None:
        return one.choice.index(value)
    return int(value) if one.whole is not None else float(value)
