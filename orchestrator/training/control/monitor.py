"""The driver's watch over its workers: progress, messages, and a report when they stall."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.job import TrainJob
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tracking.alerts import send_alert
from orchestrator.training.control.coordinator import (
    ClusterLost,
    LocalCoordinator,
    RayCoordinator,
    RunStatus,
)
from orchestrator.training.control.stall import stall_report
from orchestrator.training.health import COLLAPSE_MESSAGE

POLL_INTERVAL_S = 0.5


@contextmanager
def monitor_workers(
    coordinator: LocalCoordinator | RayCoordinator,
    progress: Progress,
    job: TrainJob,
    folder: Storage,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Show what the workers post, until they are done; where `should_stop`, ask them to end.

    In the run's folder, `workers.json` says where each rank of the present start is (node and
    process id), once it has done a step; a stall is told once and kept as `stalls/SECONDS.txt`,
    named by the time in seconds since 1970.
    """
    stop = threading.Event()
    told, noted = _StallReporter(), 0

    def write(call: Callable[[str, Any], None], path: str, what: Any) -> None:
        try:
            call(path, what)
        except OSError as error:  # a training does not end because of what is told of it
            progress.message(f"{folder.uri(path)} cannot be written: {error}")

    def show() -> None:
        news = coordinator.read_status()
        for text in news.messages:
            progress.message(text)
            if COLLAPSE_MESSAGE in text:
                send_alert(f"{job.name}: {text}")
        progress.update("train", news.step, job.optim.steps, news.progress_facts)
        nonlocal noted
        if news.attempt_first_step_at is not None and news.attempt > noted:
            noted = news.attempt
            write(folder.write_json, "workers.json", _worker_locations(news))
        report = told.new_report(news, job.scale.timeout / 2)
        if report is not None:
            progress.message(report)
            send_alert(f"{job.name}: {report}")
            write(folder.write_bytes, f"stalls/{time.time():.0f}.txt", f"{report}\n".encode())

    def watch() -> None:
        with suppress(ClusterLost):  # the main thread finds out by itself, and says so
            while not stop.wait(POLL_INTERVAL_S):
                show()
                if should_stop():
                    coordinator.request_stop()

    thread = threading.Thread(target=watch, daemon=True, name="monitor-workers")
    thread.start()
    try:
        yield
    except BaseException:
        stop.set()
        thread.join()
        with suppress(Exception):  # it must not take the place of the error that ended them
            show()
        raise
    stop.set()
    thread.join()
    show()


def _worker_locations(news: RunStatus) -> dict[str, Any]:
    ranks = [beat for _, beat in news.heartbeats.values()]
    return {
        "attempt": news.attempt,
        "first_step_at": news.attempt_first_step_at,
        "ranks": [{"rank": b.rank, "node": b.node, "pid": b.pid} for b in ranks],
    }


class _StallReporter:
    """One report for each stall: the next only after some rank has moved."""

    def __init__(self) -> None:
        self._last_reported: tuple[int, int] | None = None

    def new_report(self, news: RunStatus, stall_after_s: float) -> str | None:
        report = stall_report(news.heartbeats, stall_after_s)
        at = (news.attempt, max((b.step for _, b in news.heartbeats.values()), default=0))
        if report is None or at == self._last_reported:
            return None
        self._last_reported = at
        return report
