"""SIGTERM and Ctrl-C: save and end cleanly at the first, at once at the second.

Two SIGTERM within a few seconds are one wish: where a pod or an allocation ends, several
supervisors ask for the same end.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from orchestrator.errors import OrchestratorError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
DUPLICATE_SIGTERM_S = 10.0


class StopRequest:
    """The signal that asked for the end, once one has."""

    signal: signal.Signals | None = None
    requested_at: float = 0.0

    def is_duplicate(self, number: int) -> bool:
        """The same supervisor, or another one, asks for what is under way."""
        again = self.signal == number == signal.SIGTERM
        return again and time.monotonic() - self.requested_at < DUPLICATE_SIGTERM_S


class Stopped(OrchestratorError):
    """The job was saved and ended because a signal asked for it: an end, but no error."""

    prefix = ""

    def with_signal(self, asked: signal.Signals | None) -> Stopped:
        """With the exit code by which shells tell of a signal; 130 is Ctrl-C."""
        self.exit_code = 128 + (asked or signal.SIGINT)
        return self


@contextmanager
def graceful_shutdown(
    stop: Callable[[], None],
    notify: Callable[[str], None],
    description: str = "saving and ending after this step",
) -> Iterator[StopRequest]:
    """Within it the first signal calls `stop`, which does `description`; the second does what
    signals do anyway, but for a SIGTERM that follows another at once.

    Elsewhere than on the main thread, where Python gives no signals, it does nothing.
    """
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_duplicate(number):
            return
        if asked.signal is not None:
            restore()
            signal.raise_signal(number)
            return
        asked.signal, asked.requested_at = signal.Signals(number), time.monotonic()
        notify(f"{asked.signal.name}: {description}; again to end at once")
        stop()

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield asked
    finally:
        restore()
