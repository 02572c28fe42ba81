"""A job to be planned, for the tests of plans."""

from __future__ import annotations

from typing import Any

from orchestrator.job import TrainJob, build_job


def a_job(*overrides: str, **sections: Any) -> TrainJob:
    data = {
        "kind": "train",
        "name": "planned",
        "data": {"source": "physics://mixed?clips=1000", "size": 32, "frames": 8},
        "model": {
            "encoder": {"dim": 96, "depth": 3, "heads": 4},
            "patch": 8,
            "predictor": {"depth": 2, "dim": 48, "heads": 2},
        },
        "optim": {"steps": 100},
        "scale": {"global_batch": 4, "micro_batch": 4, "precision": "fp32"},
        **sections,
    }
    job = build_job(data, list(overrides))
    assert isinstance(job, TrainJob)
    return job
