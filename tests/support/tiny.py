"""A tiny job and its model's config, for the tests of the evaluation."""

from __future__ import annotations

from typing import Any

from orchestrator.jepa.model_files import ModelConfig
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


def model_config(job: TrainJob) -> ModelConfig:
    return ModelConfig(
        model=job.model,
        size=job.data.size,
        frames=job.data.frames,
        objective=job.objective.kind,
        job=job_dict(job),
        extra={},
    )
