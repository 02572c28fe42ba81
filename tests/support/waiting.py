"""Waiting for what happens, however slow the machine is, and what a command costs."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable, Sequence

TIMEOUT_S = 120.0
"""Long beside all that is waited for; only a failure takes so long."""


def wait_until(condition: Callable[[], object], seconds: float = TIMEOUT_S) -> None:
    """Look again until it is so.

    Raises:
        AssertionError: it is not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.01)


def cpu_seconds(command: Sequence[str], limit: float) -> float:
    """Processor time of the cheapest of four runs, or of the first that is below a limit.

    Wall time would measure how busy the machine is; processor time grows with it by a part only.
    """
    costs: list[float] = []
    while len(costs) < 4 and min(costs, default=limit) >= limit:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(costs)
