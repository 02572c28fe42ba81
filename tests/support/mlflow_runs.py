"""What the tests of tracking share: a job, an index, and what a run has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient

from orchestrator.job import TrainJob, build_job
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import mlflow_client


@dataclass
class FakeIndex:
    """What an index tells tracking."""

    uri: str = "/data/datasets/0123456789abcdef"
    digest: str = "0123456789abcdef"
    clips_per_shard: np.ndarray[Any, Any] = field(default_factory=lambda: np.array([60, 40]))
    num_clips: int = 100
    seconds: float = 720.0
    num_bytes: int = 5_000_000


def tracked_job(**changes: Any) -> TrainJob:
    """A tiny train job; `changes` are overrides with __ for a dot."""
    data = {
        "kind": "train",
        "name": "tiny",
        "data": {"source": "physics://mixed?clips=100", "frames": 4, "size": 16},
        "model": {
            "encoder": {"dim": 24, "depth": 1, "heads": 2},
            "patch": 8,
            "predictor": {"depth": 1, "dim": 24, "heads": 2},
        },
        "objective": {"masks": [{"targets": 0.5, "context": 0.25}]},
        "optim": {"steps": 20},
        "track": {"experiment": "tests", "register": "tiny"},
    }
    job = build_job(data, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])
    assert isinstance(job, TrainJob)
    return job


def metric_history(ref: RunRef, key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, as MLflow charts them."""
    found = mlflow_client(ref.tracking_uri).get_metric_history(ref.run_id, key)
    return sorted((metric.step, metric.value) for metric in found)


def artifact_paths(client: MlflowClient, ref: RunRef, folder: str = "") -> list[str]:
    """Paths of a run's files, recursively."""
    paths: list[str] = []
    for info in client.list_artifacts(ref.run_id, folder or None):
        paths += artifact_paths(client, ref, info.path) if info.is_dir else [info.path]
    return sorted(paths)


def path_of_uri(uri: str) -> Path:
    """A file:// URI as a path."""
    return Path(uri.removeprefix("file://"))
