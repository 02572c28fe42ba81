"""One sqlite store for all tests of tracking: making one takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest

from orchestrator.job import TrainJob
from orchestrator.storage import Storage
from orchestrator.tracking.run import RunRef, start_run
from orchestrator.tracking.server import mlflow_client
from tests.support.mlflow_runs import tracked_job


@pytest.fixture(autouse=True)
def _no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test neither sees nor leaves a tracking URI, and hears at once that a server is away."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A storage whose sqlite database is there."""
    storage = Storage(str(tmp_path_factory.mktemp("store")))
    mlflow_client(f"sqlite:///{storage.uri('mlflow/mlflow.db')}").search_experiments()
    return storage


@pytest.fixture
def job() -> TrainJob:
    return tracked_job()


@pytest.fixture
def new_run(store: Storage) -> Callable[..., RunRef]:
    """Starts runs in the shared store."""

    def start(job: TrainJob | None = None, **options: Any) -> RunRef:
        return start_run(job or tracked_job(), store, **{"estimate": {}, **options})

    return start
