"""MLflow's server, database or disk is in trouble: what that raises, and what a person is told."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import JobFailed, RequestError

MLFLOW_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, json.JSONDecodeError)
"""What a client of MLflow raises while its server, database, connection or disk is in trouble."""

# Statuses that say "not this request, ever"; everything else may pass when tried again.
PERMANENT_STATUS_CODES = (400, 404, 409, 413)
MAX_REASON_CHARS = 300
FILE_TRANSFER_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": ("20", "120"),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": ("3", "1"),
}
"""What the package sets in this process, and what is set while files are passed on."""


class MlflowUnavailable(RequestError):
    """MLflow cannot be read, before anything was started. Exit code 2."""


class MlflowWriteFailed(JobFailed):
    """MLflow did not take what a job has done; the storage has it, and the next run of the same
    command sends it. Exit code 1."""


@contextmanager
def mlflow_read(uri: str) -> Iterator[None]:
    """Within it MLflow is read.

    Raises:
        MlflowUnavailable: it cannot be.
    """
    try:
        yield
    except MLFLOW_ERRORS as error:
        raise MlflowUnavailable(
            f"MLflow does not answer as it should: {error_reason(error)}",
            where=uri,
            hint="see that its server and database are there, and run the same command again",
        ) from error


@contextmanager
def mlflow_write(uri: str, what: str, hint: str) -> Iterator[None]:
    """Within it MLflow is told `what`; `hint` says what becomes of it when that fails.

    Raises:
        MlflowWriteFailed: MLflow did not take it.
    """
    try:
        yield
    except MLFLOW_ERRORS as error:
        raise MlflowWriteFailed(
            f"MLflow did not take {what}: {error_reason(error)}", where=uri, hint=hint
        ) from error


@contextmanager
def report_mlflow_errors(notify: Callable[[str], None]) -> Iterator[None]:
    """Within it MLflow is told that something ended by an error, which must not give way to one of
    MLflow's: `notify` says that in a line."""
    try:
        yield
    except (MlflowUnavailable, MlflowWriteFailed) as error:
        notify(f"{error.what}; until the next run of the same command it shows RUNNING")


@contextmanager
def file_transfer_timeouts() -> Iterator[None]:
    """Within it MLflow's server may take two minutes to answer, as it passes a model's files on; it
    is asked twice. What a user has set stays."""
    before = {key: os.environ.get(key) for key in FILE_TRANSFER_SETTINGS}
    for key, (own, longer) in FILE_TRANSFER_SETTINGS.items():
        if before[key] == own:
            os.environ[key] = longer
    try:
        yield
    finally:
        os.environ.update({key: value for key, value in before.items() if value is not None})


def is_permanent(error: MlflowException, *, by_server: bool) -> bool:
    """True when sending the same request again cannot succeed.

    Of servers only MLflow itself says so: the same status with a page of HTML comes from a proxy,
    whose server may be back in a minute.
    """
    says_so = isinstance(error, RestException) or not by_server
    return says_so and error.get_http_status_code() in PERMANENT_STATUS_CODES


def error_reason(error: BaseException) -> str:
    """What an error of MLflow, its database or its connection says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # SQLAlchemy says first when it was, and then what.
    lines = [line for line in lines if not line.startswith("(raised as a result of")]
    line = lines[0] if lines else type(error).__name__
    line = line.partition(". Response body: ")[0]  # a page of HTML
    return line if len(line) <= MAX_REASON_CHARS else f"{line[:MAX_REASON_CHARS]} ..."
