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
from orchestrator.tracking.alerts import alert
from orchestrator.training.control.coordinator import ClusterLost, LocalBoard, News, RayBoard
from orchestrator.training.control.stall import stall_report
from orchestrator.training.health import COLLAPSED

LOOK_EVERY_S = 0.5


@contextmanager
def watching(
    board: LocalBoard | RayBoard,
    progress: Progress,
    job: TrainJob,
    folder: Storage,
    closing: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Show what the workers post, until they are done; where `closing`, ask them to end.

    In the run's folder, `workers.json` says where each rank of the present start is (node and
    process id), once it has done a step; a stall is told once and kept as `stalls/SECONDS.txt`,
    named by the time in seconds since 1970.
    """
    stop = threading.Event()
    told, noted = _Told(), 0

    def write(call: Callable[[str, Any], None], path: str, what: Any) -> None:
        try:
            call(path, what)
        except OSError as error:  # a training does not end because of what is told of it
            progress.message(f"{folder.uri(path)} cannot be written: {error}")

    def show() -> None:
        news = board.read()
        for text in news.messages:
            progress.message(text)
            if COLLAPSED in text:
                alert(f"{job.name}: {text}")
        progress.update("train", news.step, job.optim.steps, news.facts)
        nonlocal noted
        if news.stepped_at is not None and news.attempt > noted:
            noted = news.attempt
            write(folder.write_json, "workers.json", _where(news))
        report = told.new_report(news, job.scale.timeout / 2)
        if report is not None:
            progress.message(report)
            alert(f"{job.name}: {report}")
            write(folder.write_bytes, f"stalls/{time.time():.0f}.txt", f"{report}\n".encode())

    def watch() -> None:
        with suppress(ClusterLost):  # the main thread finds out by itself, and says so
            while not stop.wait(LOOK_EVERY_S):
                show()
                if closing():
                    board.ask_stop()

    thread = threading.Thread(target=watch, daemon=True, name="watch-board")
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


def _where(news: News) -> dict[str, Any]:
    ranks = [beat for _, beat in news.beats.values()]
    return {
        "attempt": news.attempt,
        "first_step_at": news.stepped_at,
        "ranks": [{"rank": b.rank, "node": b.node, "pid": b.pid} for b in ranks],
    }


class _Told:
    """One report for each stall: the next only after some rank has moved."""

    def __init__(self) -> None:
        self._at: tuple[int, int] | None = None

    def new_report(self, news: News, slow_s: float) -> str | None:
        report = stall_report(news.beats, slow_s)
        at = (news.attempt, max((b.step for _, b in news.beats.values()), default=0))
        if report is None or at == self._at:
            return None
        self._at = at
        return report
