"""What a command writes to when its reader has gone, or when an error has no caller."""

from __future__ import annotations

import os
import select
import sys
import threading
from typing import TYPE_CHECKING

from orchestrator.unexpected import one_line, save_traceback, to_orchestrator_error

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def print_stderr(text: str) -> None:
    """A line on stderr, if anybody reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return  # there is nobody to be told


def stdout_reader_closed(*, flush: bool = False) -> bool:
    """Whether stdout is a pipe that nobody reads any more; then nothing more goes there.

    `flush` writes what was printed first.
    """
    try:
        if flush:
            sys.stdout.flush()
        if not _reader_closed(sys.stdout.fileno()):
            return False
    except BrokenPipeError:
        pass
    except (OSError, ValueError, AttributeError):
        return False  # no pipe: a full disk, or a stream that is closed or was replaced
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True


def _reader_closed(descriptor: int) -> bool:
    asked = select.poll()
    asked.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in asked.poll(0))


def install_exception_hooks() -> None:
    """An error of a thread, or of what is being deleted, is told in a line, not as a traceback.

    Hooks that somebody else has set stay.
    """
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_excepthook
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisablehook


def _thread_excepthook(args: threading.ExceptHookArgs) -> None:
    if not isinstance(args.exc_value, Exception):
        return  # SystemExit ends a thread
    told = to_orchestrator_error(args.exc_value)
    save_traceback(told)
    name = args.thread.name if args.thread else "a thread"
    print_stderr(f"warning: {name} has ended: {told}")


def _unraisablehook(args: UnraisableHookArgs) -> None:
    if args.exc_value is not None:
        print_stderr(f"warning: {one_line(args.exc_value)} (ignored in {args.object!r})")
