"""What all tests share: MLflow's tables are made once, and little waits for the disk."""

from __future__ import annotations

import functools
import gc
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["tests.support.deterministic", "tests.support.isolation"]


def pytest_collection_finish() -> None:
    """What was imported until now stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_fsync() -> Iterator[None]:
    """No test pulls the plug, so that nothing in this process need be on the disk already."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def write_behind(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", write_behind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
    event.remove(Engine, "connect", write_behind)


@pytest.fixture(scope="session", autouse=True)
def _copy_mlflow_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A new sqlite store gets a copy of the first one's tables.

    MLflow makes them by some fifty migrations, each of which waits for the disk. The first store
    is made by MLflow itself, and so are those of the processes that tests start.
    """
    from mlflow.store.db import utils

    make: Callable[[Any], None] = utils._initialize_tables

    @functools.cache
    def first() -> Path:
        file = tmp_path_factory.mktemp("tables") / "mlflow.db"
        engine = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
        make(engine)
        engine.dispose()
        return file

    def copy(engine: Any) -> None:
        file = engine.url.database
        if engine.dialect.name != "sqlite" or not file or not utils._is_empty_database(engine):
            return make(engine)
        with closing(sqlite3.connect(first())) as made, closing(sqlite3.connect(file)) as new:
            made.backup(new)
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", copy)
        yield
