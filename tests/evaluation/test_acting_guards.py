"""What a model that acts is not asked, and where it is said: before anything starts."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from orchestrator.errors import RequestError
from orchestrator.evaluation.in_training.scheduler import check_evaluations
from orchestrator.job import PipelineJob, TrainJob, build_job
from orchestrator.pipeline.compatibility import check_stages

TRAIN: dict[str, Any] = {
    "kind": "train",
    "name": "acting",
    "data": {"source": "videos", "frames": 4, "size": 32, "act": {}},
    "model": {
        "encoder": {"dim": 24, "depth": 1, "heads": 2, "attention": "moment"},
        "patch": 8,
        "tubelet": 1,
        "predictor": {"dim": 24, "depth": 1, "heads": 2},
    },
    "objective": {"kind": "lewm"},
    "optim": {"steps": 10},
}
JUDGE = {"kind": "evaluate", "name": "judge", "model": "models:/some"}


def train_job(**keys: Any) -> dict[str, Any]:
    return copy.deepcopy(TRAIN) | keys


def pipeline(*stages: dict[str, Any]) -> PipelineJob:
    job = build_job({"kind": "pipeline", "name": "stages", "stages": list(stages)})
    assert isinstance(job, PipelineJob)
    return job


def test_a_suite_beside_a_training_that_acts_is_refused() -> None:
    job = build_job(train_job(evaluate=[{"every": 5, "job": JUDGE}]))
    assert isinstance(job, TrainJob)
    with pytest.raises(RequestError, match=r"evaluate: the model acts.*a suite does not say"):
        check_evaluations(job)


def test_a_suite_after_a_training_that_acts_is_refused_and_another_training_is_not() -> None:
    first = {"name": "first", "job": train_job()}
    judged = {"name": "judged", "job": JUDGE, "set": {"model": "stages:/first/model"}}
    with pytest.raises(RequestError, match=r"stage 'judged': after stage 'first': model: the mod"):
        check_stages(pipeline(first, judged), local=True)
    second = {
        "name": "second",
        "job": train_job(name="second"),
        "set": {"model.from": "stages:/first/model"},
    }
    check_stages(pipeline(first, second), local=True)
    second["set"]["model.patch"] = 4
    with pytest.raises(RequestError, match="cannot start from the model of stage 'first'"):
        check_stages(pipeline(first, second), local=True)


@pytest.mark.parametrize("metric", ["quads", "retrieval"])
def test_trials_that_act_are_not_ranked_by_what_follows_by_itself(metric: str) -> None:
    sweep = {
        "kind": "tune",
        "name": "sweep",
        "train": train_job(),
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
        "trials": 4,
        "budget": 20,
        "objective": {"metric": metric},
    }
    with pytest.raises(RequestError, match=f"'{metric}' does not say what is done"):
        build_job(sweep)
    assert build_job(sweep | {"objective": {"metric": "probe"}})
