"""Which MLflow keeps the runs."""

import os
import socket
from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.storage import Storage
from orchestrator.tracking.server import (
    artifact_root,
    mlflow_client,
    require_usable,
    sqlite_file,
    tracking_uri,
)


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


@pytest.mark.parametrize(
    "name", ["what?x=1", "feature%2Fx", "a#b", "100%", "%3F", "a b ünï 視", "~"]
)
def test_all_of_a_run_lies_in_its_storage_whatever_its_name(name: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / name))
    uri = tracking_uri(None, storage)
    assert sqlite_file(uri) == tmp_path / name / "mlflow" / "mlflow.db"
    assert tracking_uri(uri) == uri
    client = mlflow_client(uri)
    run = client.create_run(client.create_experiment("x", artifact_root(uri)))
    client.log_text(run.info.run_id, "text", "file.txt")
    assert os.listdir(tmp_path) == [name]
    assert sorted(os.listdir(tmp_path / name / "mlflow")) == [
        "artifacts",
        "mlflow.db",
        "mlflow.db.lock",
    ]
    assert list((tmp_path / name / "mlflow" / "artifacts").rglob("file.txt"))


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite:", "names no file"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///folder/", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://host/x.db", "names no file"),
        ("sqlite:////dev", "is a folder"),
        ("http://", "names no host"),
        ("http:///x", "names no host"),
        ("http:host", "names no host"),
        ("http://host:port", "names no host"),
        ("http://host:99999", "names no host"),
        ("http://[host", "names no host"),
        ("http://two hosts", "names no host"),
        ("postgresql:", "names no host"),
        ("not-a-server", "not a tracking server"),
        ("uc:/x", "not a tracking server"),
        ("s3://bucket/x", "not a tracking server"),
        ("~/mlruns", "not a tracking server"),
        ("127.0.0.1:5000", "not a tracking server"),
    ],
)
@pytest.mark.parametrize("variable", [True, False])
def test_odd_addresses_are_refused_by_where_they_stand(
    uri: str, reason: str, variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri if variable else "http://other")
    with pytest.raises(RequestError, match=reason) as error:
        tracking_uri(None if variable else uri)
    assert error.value.where == ("MLFLOW_TRACKING_URI" if variable else "track.uri")
    assert error.value.exit_code == 2


@pytest.mark.parametrize("value", ["", "  "])
def test_a_variable_without_a_value_is_none(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    assert tracking_uri(None, Storage(str(tmp_path))) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"


def test_a_query_of_a_database_stays() -> None:
    uri = "sqlite:////x/mlflow.db?timeout=5"
    assert tracking_uri(uri) == uri
    assert sqlite_file(uri) == Path("/x/mlflow.db")


def test_a_database_in_a_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="a file, not a folder"):
        require_usable(f"sqlite:///{tmp_path}/file/mlflow.db", nodes=1)


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
    monkeypatch.setattr("orchestrator.tracking.server.REACHABLE_TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(RequestError, match="does not answer"),
    ):
        require_usable(f"http://127.0.0.1:{silent.getsockname()[1]}", nodes=1)
