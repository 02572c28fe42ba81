"""A tiny sweep, for the tests of the tuning room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.job import TuneJob, build_job

TRAIN: dict[str, Any] = {
    "data": {
        "source": "physics://drop?clips=8&size=32&fps=8&seconds=2",
        "frames": 8,
        "fps": 8.0,
        "size": 32,
    },
    "model": {
        "encoder": {"dim": 24, "depth": 2, "heads": 2},
        "patch": 8,
        "tubelet": 2,
        "predictor": {"dim": 12, "depth": 1, "heads": 2},
    },
    "objective": {"kind": "vjepa2", "ema": 0.99, "masks": [{"targets": 0.5, "context": 0.24}]},
    "optim": {"steps": 100, "lr": 1e-3},
    "scale": {"global_batch": 4, "micro_batch": 4, "precision": "fp32", "device": "cpu"},
    "checkpoint": {"every": 1000, "keep_last": 1},
    "track": {"every": 1, "pictures": 0},
}
SPACE: dict[str, Any] = {
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
    "objective.ema": {"choice": [0.9, 0.99, 0.0]},
}


def tune_job(folder: Path, *overrides: str, **keys: Any) -> TuneJob:
    data: dict[str, Any] = {
        "kind": "tune",
        "name": "search",
        "storage": str(folder),
        "train": TRAIN,
        "space": SPACE,
        "trials": 4,
        "budget": 20,
        "objective": {"fit": 10, "score": 4},
    }
    job = build_job(data | keys, list(overrides))
    assert isinstance(job, TuneJob)
    return job
