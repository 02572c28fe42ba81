"""A rank's heartbeat: tells the coordinator what it does, and hears the request to stop."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from typing import Any

from orchestrator.training.control.coordinator import Heartbeat, RunCoordinator

HEARTBEAT_INTERVAL_S = 1.0
MAX_STACK_FRAMES = 12
"""Innermost frames of a stack that are reported."""


class HeartbeatThread:
    """Reports from a thread of its own, so that it is heard while the caller's thread hangs.

    Args:
        stack_after_s: seconds in one place after which the caller's stack is reported too.
    """

    def __init__(self, coordinator: RunCoordinator, rank: int, stack_after_s: float) -> None:
        self._coordinator, self._rank, self._slow_s = coordinator, rank, stack_after_s
        self._training_thread = threading.get_ident()
        self._phase: tuple[int, str, float] = (0, "starting", time.monotonic())
        self._stop_asked, self._closed = False, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._thread.start()

    @property
    def stop_requested(self) -> bool:
        """The driver wants the training saved and ended."""
        return self._stop_asked

    def set_phase(self, step: int, phase: str) -> None:
        """What the caller does from now on; `step` optimizer steps are done."""
        self._phase = (step, phase, time.monotonic())

    @property
    def phase_text(self) -> str:
        """What the caller does, in words."""
        step, doing, _ = self._phase
        what = {"starting": "starting", "data": "waiting for data", "step": "taking a step"}
        return f"{what.get(doing, doing)} after step {step}"

    def close(self) -> None:
        """Report no more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._stop_asked = (
                    self._coordinator.heartbeat(self._make_heartbeat()) or self._stop_asked
                )
            except Exception:
                # The driver and its coordinator are gone; Ray ends this process.
                return
            self._closed.wait(HEARTBEAT_INTERVAL_S)

    def _make_heartbeat(self) -> Heartbeat:
        step, doing, began = self._phase
        since = time.monotonic() - began
        stack = self._format_stack() if since > self._slow_s else ""
        return Heartbeat(self._rank, socket.gethostname(), os.getpid(), step, doing, since, stack)

    def _format_stack(self) -> str:
        frame: Any = sys._current_frames().get(self._training_thread)
        return "".join(traceback.format_stack(frame)[-MAX_STACK_FRAMES:]) if frame else ""
