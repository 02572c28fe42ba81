"""The driver's watch over its workers: progress, messages, and a report when they stall."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.job import TrainJob
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.training.board import LocalBoard, News, RayBoard
from orchestrator.training.stall import stall_report

LOOK_EVERY_S = 0.5


@contextmanager
def watching(
    board: LocalBoard | RayBoard, progress: Progress, job: TrainJob, folder: Storage
) -> Iterator[None]:
    """Show what the workers post, until they are done. A stall is told once, and kept in the
    run's folder as `stalls/SECONDS.txt`, named by the time of day in seconds since 1970."""
    stop = threading.Event()
    told = _Told()

    def show() -> None:
        news = board.read()
        for text in news.messages:
            progress.message(text)
        progress.update("train", news.step, job.optim.steps, news.facts)
        report = told.new_report(news, job.scale.timeout / 2)
        if report is not None:
            progress.message(report)
            folder.write_bytes(f"stalls/{time.time():.0f}.txt", f"{report}\n".encode())

    def watch() -> None:
        while not stop.wait(LOOK_EVERY_S):
            show()

    thread = threading.Thread(target=watch, daemon=True, name="watch-board")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    show()


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
