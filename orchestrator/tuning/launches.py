"""What each launch of a sweep took, kept while it goes on: a driver that is killed loses seconds.

`sweeps/NAME/launches.json`: by launch, when it began and was last heard of, what its workers have
held room for, and which trials waited. The budget's limits count all of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from orchestrator.job.config.tune import Budget
from orchestrator.storage import Storage, with_retries
from orchestrator.tuning.slot_broker import SlotBrokerStatus

LAUNCHES = "launches.json"
NOTE_EVERY_S = 10.0


def read_launches(folder: Storage) -> list[dict[str, Any]]:
    """Every launch that trained anything, oldest first."""
    if not with_retries(folder.exists, LAUNCHES):
        return []
    launches: list[dict[str, Any]] = with_retries(folder.read_json, LAUNCHES)
    return launches


class SweepLaunch:
    """This launch."""

    def __init__(self, folder: Storage, waiting: Sequence[int]) -> None:
        self._folder, self._before = folder, read_launches(folder)
        self._noted = 0.0
        now = time.time()
        self.record: dict[str, Any] = {
            "began": now, "ended": now, "worker_s": 0.0, "waiting": list(waiting), "rooms": [],
        }  # fmt: skip

    def record_usage(self, seen: SlotBrokerStatus, at_once: bool = False) -> None:
        """Keep what it has taken so far; on the disk every few seconds, or `at_once`."""
        now = time.time()
        self.record |= {"ended": now, "worker_s": seen.worker_s, "rooms": seen.rooms}
        if at_once or now - self._noted > NOTE_EVERY_S:
            self._noted = now
            with_retries(self._folder.write_json, LAUNCHES, [*self._before, self.record])

    def budget_exhausted(self, limits: Budget) -> str:
        """The limit that is reached, in words; empty while there is none."""
        return budget_exhausted([*self._before, self.record], limits)


def budget_exhausted(launches: Sequence[dict[str, Any]], limits: Budget) -> str:
    """The limit that these launches have reached, in words; empty where there is none."""
    hours = sum(one["ended"] - one["began"] for one in launches) / 3600
    gpu_hours = sum(one["worker_s"] for one in launches) / 3600
    if limits.hours is not None and hours >= limits.hours:
        return f"budget.hours {limits.hours:g}"
    if limits.gpu_hours is not None and gpu_hours >= limits.gpu_hours:
        return f"budget.gpu_hours {limits.gpu_hours:g}"
    return ""
