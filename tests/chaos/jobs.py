"""The job that is struck: small, and slow enough to be hit in its middle."""

from __future__ import annotations

from typing import Any

from orchestrator.job import TrainJob, build_job


def struck_job(*overrides: str, **scale: Any) -> TrainJob:
    """60 steps of 4 clips on two ranks, a checkpoint every 5."""
    job = build_job(
        {
            "kind": "train",
            "name": "struck",
            "seed": 5,
            "data": {
                "source": "physics://mixed?clips=24&size=48&fps=8&seconds=2",
                "frames": 4,
                "fps": 4.0,
                "size": 32,
                "decode_threads": 1,
            },
            "model": {
                "encoder": {"kind": "vit", "dim": 48, "depth": 2, "heads": 2},
                "patch": 8,
                "predictor": {"depth": 1, "dim": 24, "heads": 2},
            },
            "objective": {"ema": 0.9, "masks": [{"targets": 0.5, "context": 0.25}]},
            "optim": {"steps": 60, "lr": 1e-4, "warmup": 1},
            "scale": {
                "workers": 2,
                "global_batch": 4,
                "micro_batch": 2,
                "precision": "fp32",
                **scale,
            },
            "checkpoint": {"every": 5, "keep_last": 2},
            "track": {"experiment": "chaos", "every": 1, "pictures": 0},
        },
        list(overrides),
    )
    assert isinstance(job, TrainJob)
    return job
