"""SIGTERM and Ctrl-C: save and end cleanly at the first, at once at the second."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Asked:
    """The signal that asked for the end, once one has."""

    signal: signal.Signals | None = None


@contextmanager
def stopping_cleanly(
    stop: Callable[[], None],
    tell: Callable[[str], None],
    what: str = "saving and ending after this step",
) -> Iterator[Asked]:
    """Within it the first signal calls `stop`, which does `what`; the second does what signals do
    anyway.

    Elsewhere than on the main thread, where Python gives no signals, it does nothing.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        asked.signal = signal.Signals(number)
        restore()
        tell(f"{asked.signal.name}: {what}; again to end at once")
        stop()

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield asked
    finally:
        restore()
