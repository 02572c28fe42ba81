"""One sqlite store for all tests of tracking: making one takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from orchestrator.job import TrainJob, build_job
from orchestrator.storage import Storage
from orchestrator.tracking.run import RunRef, start_run
from orchestrator.tracking.server import client_of


@dataclass
class Packed:
    """What an index tells tracking."""

    uri: str = "/data/datasets/0123456789abcdef"
    digest: str = "0123456789abcdef"
    counts: np.ndarray[Any, Any] = field(default_factory=lambda: np.array([60, 40]))
    clips: int = 100
    seconds: float = 720.0
    bytes: int = 5_000_000


@pytest.fixture(autouse=True)
def _no_global_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test neither sees nor leaves a tracking URI, and hears at once that a server is away."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A storage whose sqlite database is there."""
    storage = Storage(str(tmp_path_factory.mktemp("store")))
    client_of(f"sqlite:///{storage.uri('mlflow/mlflow.db')}").search_experiments()
    return storage


def make_job(**changes: Any) -> TrainJob:
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


@pytest.fixture
def job() -> TrainJob:
    return make_job()


@pytest.fixture
def new_run(store: Storage) -> Callable[..., RunRef]:
    """Starts runs in the shared store."""

    def start(job: TrainJob | None = None, **options: Any) -> RunRef:
        return start_run(job or make_job(), store, **{"plan": {}, **options})

    return start


def history(ref: RunRef, key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, as MLflow charts them."""
    found = client_of(ref.uri).get_metric_history(ref.run_id, key)
    return sorted((metric.step, metric.value) for metric in found)


def artifacts(client: MlflowClient, ref: RunRef, folder: str = "") -> list[str]:
    """Paths of a run's files, recursively."""
    paths: list[str] = []
    for info in client.list_artifacts(ref.run_id, folder or None):
        paths += artifacts(client, ref, info.path) if info.is_dir else [info.path]
    return sorted(paths)


def folder_of(uri: str) -> Path:
    """A file:// URI as a path."""
    return Path(uri.removeprefix("file://"))
