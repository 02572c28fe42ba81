"""Which MLflow keeps the runs."""

import socket
from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.storage import Storage
from orchestrator.tracking.server import artifact_root, require_usable, tracking_uri


def test_runs_are_kept_in_the_storage_unless_a_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    assert tracking_uri(None, storage) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000/")
    assert tracking_uri(None, storage) == "http://server:5000"
    assert tracking_uri("postgresql://db/mlflow", storage) == "postgresql://db/mlflow"


def test_a_relative_database_means_the_same_file_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert artifact_root("sqlite:////x/mlflow.db") == "file:///x/artifacts"
    assert artifact_root("http://server") is None


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "htp://server"])
def test_what_mlflow_cannot_use_is_refused_with_advice(uri: str) -> None:
    with pytest.raises(RequestError, match=r"sqlite:///mlflow\.db"):
        tracking_uri(uri)


def test_an_object_store_holds_no_database() -> None:
    with pytest.raises(RequestError, match="needs a disk"):
        tracking_uri(None, Storage("s3://bucket/prefix"))


def test_sqlite_is_refused_when_several_nodes_write() -> None:
    require_usable("sqlite:////x/mlflow.db", nodes=1)
    with pytest.raises(RequestError, match="2 nodes cannot write one sqlite file"):
        require_usable("sqlite:////x/mlflow.db", nodes=2)


def test_a_server_that_is_away_is_said_at_once() -> None:
    with pytest.raises(RequestError, match="does not answer"):
        require_usable("http://127.0.0.1:9", nodes=1)


def test_a_server_that_takes_a_call_and_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.tracking.server.ALIVE_TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(RequestError, match="does not answer"),
    ):
        require_usable(f"http://127.0.0.1:{silent.getsockname()[1]}", nodes=1)
