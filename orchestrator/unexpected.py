"""What becomes of an error that nobody foresaw: one line, and its traceback in a file."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.errors import JobFailed, OrchestratorError
from orchestrator.storage import Storage

ERRORS_FOLDER = "errors"
"""Folder of tracebacks in the folder of a run, `errors/SECONDS.txt`, seconds since 1970."""

MAX_LINE_LENGTH = 300

_WRAPPED_ATTRIBUTE = "_orchestrator_told"
"""Attribute of an unforeseen error: what is told of it."""


class UnexpectedError(JobFailed):
    """An error of a kind that nobody foresaw. Exit code 1."""


@contextmanager
def error_context(activity: str) -> Iterator[None]:
    """Within it, an unforeseen error notes what was being done; the innermost stage counts."""
    try:
        yield
    except Exception as error:
        add_error_context(error, activity)
        raise


def add_error_context(error: Exception, activity: str) -> None:
    """Note on an unforeseen error what was being done; the first note counts."""
    if not isinstance(error, OrchestratorError) and not getattr(error, "__notes__", []):
        error.add_note(f"while {activity}")


def one_line(error: BaseException) -> str:
    """Kind and message of an error, without the lines of a traceback that its text may have."""
    cause = getattr(error, "cause", None)  # Ray puts a worker's error and its traceback in one
    error = cause if isinstance(cause, BaseException) else error
    if isinstance(error, OrchestratorError):
        return f"{error.where}: {error.what}" if error.where else error.what
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= MAX_LINE_LENGTH else f"{text[:MAX_LINE_LENGTH]} ..."


def format_traceback(error: BaseException) -> str:
    """The whole traceback, with those of its causes."""
    return "".join(traceback.format_exception(error))


def to_orchestrator_error(error: Exception, where: str = "") -> OrchestratorError:
    """The error itself where it is the house's own, also as a Ray worker raised it; otherwise one
    that says in a line what happened and carries the traceback: always the same for one error.

    Args:
        where: the job, for an error that nobody foresaw.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, OrchestratorError):
        return cause
    if isinstance(error, OrchestratorError):
        return error
    known: UnexpectedError | None = getattr(error, _WRAPPED_ATTRIBUTE, None)
    if known is None:
        notes = getattr(error, "__notes__", [])
        when = f" ({notes[0]})" if notes else ""
        known = UnexpectedError(
            f"unforeseen {one_line(error)}{when}",
            where=where,
            hint="what was saved stays; if this is a fault of orchestrator, please report it",
            details=format_traceback(error),
        )
        setattr(error, _WRAPPED_ATTRIBUTE, known)
    return known


def save_traceback(error: OrchestratorError, folder: Storage | None = None) -> None:
    """Keep the traceback that an error carries, and say in its hint where.

    It goes into the run's `folder` if that exists, else into a temporary file.
    """
    if not error.details:
        return
    text, error.details = error.details, ""
    try:
        where = f"the traceback is in {_write_traceback(text, folder)}"
    except OSError as failure:
        where = f"the traceback could not be kept ({failure}): --debug shows it"
    error.hint = f"{error.hint}; {where}" if error.hint else where


def _write_traceback(text: str, folder: Storage | None) -> str:
    try:
        if folder is not None and folder.exists():
            path = f"{ERRORS_FOLDER}/{time.time():.3f}.txt"
            folder.write_bytes(path, text.encode("utf-8", "backslashreplace"))
            return folder.uri(path)
    except OSError:  # its disk may be full, which may be what is being told of
        pass
    handle, path = tempfile.mkstemp(prefix="orchestrator-error-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return path
