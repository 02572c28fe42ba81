"""MLflow's tables in a new sqlite file: made once, whoever asks at the same time or is killed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from orchestrator.errors import RequestError
from orchestrator.storage import Storage
from orchestrator.tracking import sqlite_store as tables
from orchestrator.tracking.server import mlflow_client, tracking_uri

START = """
import sys
from orchestrator.tracking.registry import _ensure_registered
from orchestrator.tracking.run import create_run
from orchestrator.tracking.server import mlflow_client
uri = sys.argv[1]
client = mlflow_client(uri)
run = create_run(client, uri, "new", "one", {})
_ensure_registered(client, "model")
print(run.info.experiment_id)
"""
KILLED = """
import os, signal, sys
from mlflow.store.db import utils
from orchestrator.tracking.server import mlflow_client
utils._upgrade_db = lambda engine: os.kill(os.getpid(), signal.SIGKILL)
mlflow_client(sys.argv[1])
"""


def started(script: str, uri: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.integration
def test_processes_that_start_together_share_one_experiment_and_one_model(tmp_path: Path) -> None:
    uri = tracking_uri(storage=Storage(str(tmp_path)))
    many = [started(START, uri) for _ in range(4)]
    told = [process.communicate(timeout=120) for process in many]
    assert [process.returncode for process in many] == [0] * 4, told
    assert len({out for out, _ in told}) == 1
    assert len(mlflow_client(uri).search_runs([told[0][0].strip()])) == 4


@pytest.mark.integration
def test_a_process_that_is_killed_while_it_makes_them_leaves_nothing_half_made(
    tmp_path: Path,
) -> None:
    uri = tracking_uri(storage=Storage(str(tmp_path)))
    killed = started(KILLED, uri)
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    after = started(START, uri)
    out, errors = after.communicate(timeout=120)
    assert (after.returncode, out.strip()) == (0, "1"), errors


def test_a_disk_that_is_full_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(engine: object) -> None:
        raise OperationalError("CREATE TABLE x", {}, Exception("database or disk is full"))

    monkeypatch.setattr(tables.utils, "_initialize_tables", full)
    uri = tracking_uri(storage=Storage(str(tmp_path)))
    with pytest.raises(RequestError, match="database or disk is full") as caught:
        mlflow_client(uri)
    assert len(str(caught.value).splitlines()) == 2
    assert [path.name for path in (tmp_path / "mlflow").iterdir()] == ["mlflow.db.lock"]
    monkeypatch.undo()
    assert mlflow_client(uri).get_experiment("0")


def test_a_database_in_a_folder_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tracking_uri(storage=Storage(str(tmp_path)))
    mlflow_client(uri)
    tables.create_sqlite_store.cache_clear()
    opened = os.open

    def read_only(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(tables.os, "open", read_only)
    assert mlflow_client(uri).get_experiment("0")
