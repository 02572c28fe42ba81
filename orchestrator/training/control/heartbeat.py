"""A rank's pulse: what it is doing, told to the board, and the driver's wish to stop, heard."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from typing import Any

from orchestrator.training.control.coordinator import Beat, Board

BEAT_S = 1.0
FRAMES = 12
"""Innermost frames of a stack that are told."""


class Pulse:
    """Beats from a thread of its own, so that it is heard while the caller's thread hangs.

    Args:
        slow_s: seconds in one place after which the caller's stack is told too.
    """

    def __init__(self, board: Board, rank: int, slow_s: float) -> None:
        self._board, self._rank, self._slow_s = board, rank, slow_s
        self._trained = threading.get_ident()
        self._where: tuple[int, str, float] = (0, "starting", time.monotonic())
        self._stop_asked, self._closed = False, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="pulse")
        self._thread.start()

    @property
    def stop_asked(self) -> bool:
        """The driver wants the training saved and ended."""
        return self._stop_asked

    def at(self, step: int, doing: str) -> None:
        """What the caller does from now on; `step` optimizer steps are done."""
        self._where = (step, doing, time.monotonic())

    @property
    def doing(self) -> str:
        """What the caller does, in words."""
        step, doing, _ = self._where
        what = {"starting": "starting", "data": "waiting for data", "step": "taking a step"}
        return f"{what.get(doing, doing)} after step {step}"

    def close(self) -> None:
        """Beat no more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._stop_asked = self._board.beat(self._beat()) or self._stop_asked
            except Exception:
                # The driver and its board are gone; Ray ends this process.
                return
            self._closed.wait(BEAT_S)

    def _beat(self) -> Beat:
        step, doing, began = self._where
        since = time.monotonic() - began
        stack = self._stack() if since > self._slow_s else ""
        return Beat(self._rank, socket.gethostname(), os.getpid(), step, doing, since, stack)

    def _stack(self) -> str:
        frame: Any = sys._current_frames().get(self._trained)
        return "".join(traceback.format_stack(frame)[-FRAMES:]) if frame else ""
