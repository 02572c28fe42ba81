"""A tiny model that has learnt nothing, as the evaluation takes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchestrator.jepa.hub import ModelConfig, WorldModel, random_model
from orchestrator.job import TrainJob, build_job, job_dict


def tiny_job(**data: Any) -> TrainJob:
    job = build_job(
        {
            "kind": "train",
            "name": "tiny",
            "data": {"source": "unused", "frames": 8, "fps": 8.0, "size": 32, **data},
            "model": {
                "encoder": {"dim": 24, "depth": 2, "heads": 2},
                "patch": 8,
                "tubelet": 2,
                "predictor": {"dim": 12, "depth": 1, "heads": 2},
            },
            "optim": {"steps": 10, "lr": 1e-3},
            "scale": {"global_batch": 2, "micro_batch": 2},
        }
    )
    assert isinstance(job, TrainJob)
    return job


def config_of(job: TrainJob) -> ModelConfig:
    return ModelConfig(
        model=job.model,
        size=job.data.size,
        frames=job.data.frames,
        objective=job.objective.kind,
        job=job_dict(job),
        extra={},
    )


@pytest.fixture
def tiny() -> WorldModel:
    model = random_model(config_of(tiny_job()), 0)
    assert model.predictor is not None
    with torch.no_grad():  # they start at zero: the two masks would be one
        model.predictor.mask_tokens.normal_(generator=torch.Generator().manual_seed(1))
    return model
