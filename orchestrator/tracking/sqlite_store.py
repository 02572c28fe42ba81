"""MLflow's tables in a new sqlite file: one process makes them, the others wait."""

from __future__ import annotations

import fcntl
import functools
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.db import utils


@functools.cache
def create_sqlite_store(uri: str, path: Path) -> None:
    """Make the database `path` of `uri`, and MLflow's default experiment in it, where they are not.

    MLflow itself makes the tables where they stand, without a lock: of processes that begin
    together all but one fail, and one that is killed leaves tables that no later one can use.

    Raises:
        OSError, sqlite3.Error, MlflowException, SQLAlchemyError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _file_lock(path):
        if not path.exists() or path.stat().st_size == 0:
            _create_tables(uri, path)
        # MLflow would try for a minute to open what is no database.
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")
        # Opening the store and the registry writes what a new database lacks.
        MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models(max_results=1)


def _create_tables(uri: str, file: Path) -> None:
    """Make the tables in a file of another name, which becomes `file` when it is whole."""
    new = file.with_name(f"new-{uuid.uuid4().hex[:8]}.db")
    try:
        folder = uri.partition("?")[0].rpartition("/")[0]
        engine = utils.create_sqlalchemy_engine(f"{folder}/{new.name}")
        try:
            utils._initialize_tables(engine)
        finally:
            engine.dispose()
        os.replace(new, file)
    finally:
        for left in file.parent.glob(f"{new.name}*"):
            left.unlink()


@contextmanager
def _file_lock(file: Path) -> Iterator[None]:
    """A lock among processes, as sqlite itself locks its file; the kernel releases a dead one's."""
    try:
        lock = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        if not file.exists():
            raise
        # The database of somebody else, to be read only: there is nothing to make.
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
