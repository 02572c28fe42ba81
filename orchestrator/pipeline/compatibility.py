"""Whether each stage fits what the former ones will leave; nothing is started to find out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from orchestrator.errors import RequestError
from orchestrator.evaluation.in_training.scheduler import (
    check_evaluations,
    check_suite_fits,
    untrained_model,
)
from orchestrator.jepa.model_files import initial_weights_mismatch
from orchestrator.job import (
    EmbedJob,
    EvaluateJob,
    PipelineJob,
    Stage,
    TrainJob,
    TuneJob,
)
from orchestrator.training.callbacks.custom import check_callbacks

INIT_KEY = "model.from"
"""The key of what a training begins with. Of a teacher only its tokens must fit, which is seen when
its stage starts."""


def check_stages(job: PipelineJob, *, local: bool) -> None:
    """Refuse a pipeline in which a stage cannot be done after the ones before it.

    Raises:
        RequestError: names the stage, and the former one that it does not fit.
    """
    for stage in job.stages:
        if isinstance(stage.job, TuneJob) and local:
            raise _refusal(stage, "Ray Tune starts its trials", "leave --local out")
        if isinstance(stage.job, TrainJob):
            _check_named(stage, partial(check_evaluations, stage.job))
        trained = stage.job.train if isinstance(stage.job, TuneJob) else stage.job
        if isinstance(trained, TrainJob):
            _check_named(stage, partial(check_callbacks, trained))
        for found in stage.references:
            former = next(one for one in job.stages if one.name == found.stage)
            _check_pair(stage, former, found.key)


def _check_pair(stage: Stage, former: Stage, key: str) -> None:
    if key == "probe.features":
        _check_probe(stage, former)
    trained = _trained(former)
    if trained is None:
        return
    asked = stage.job
    if isinstance(asked, EvaluateJob) and not any(
        getattr(asked, other, None) for other in ("benchmark", "probe", "planning")
    ):
        _check_named(stage, lambda: check_suite_fits(asked, untrained_model(trained)), former)
    begins = stage.job.train if isinstance(stage.job, TuneJob) else stage.job
    if isinstance(begins, TrainJob) and key.endswith(INIT_KEY):
        misfit = initial_weights_mismatch(trained, begins)
        if misfit:
            raise _refusal(
                stage,
                f"it cannot start from the model of stage '{former.name}': {misfit}",
                "give both the same `model`, kind of objective and number of masks; data.frames"
                " and data.size may differ",
            )


def _trained(former: Stage) -> TrainJob | None:
    """The training whose model a stage leaves, as far as its shape is known before."""
    if isinstance(former.job, TrainJob):
        return former.job
    if isinstance(former.job, TuneJob):
        shapes = [key for key in former.job.space if key.startswith(("model", "objective"))]
        return None if shapes else former.job.train
    return None


def _check_probe(stage: Stage, former: Stage) -> None:
    probe = stage.job.probe if isinstance(stage.job, EvaluateJob) else None
    pooled = isinstance(former.job, EmbedJob) and former.job.pooling == "mean"
    if probe is not None and probe.target == "states" and pooled:
        raise _refusal(
            stage,
            f"states are read tubelet by tubelet, and stage '{former.name}' leaves one mean a clip",
            "set pooling: tokens or frames there",
        )


def _check_named(stage: Stage, check: Callable[[], None], former: Stage | None = None) -> None:
    try:
        check()
    except RequestError as error:
        beside = f"after stage '{former.name}': " if former else ""
        what = f"{error.where}: {error.what}" if error.where else error.what
        raise _refusal(stage, beside + what, error.hint) from None


def _refusal(stage: Stage, what: str, mend: str) -> RequestError:
    return RequestError(what, where=f"stage '{stage.name}'", hint=mend)
