"""What of a running sweep stays in the driver's process, shared by all that Ray Tune calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.job import TuneJob
from orchestrator.progress import Progress
from orchestrator.training.control.coordinator import ClusterLost
from orchestrator.training.control.signals import Asked, stopping_cleanly
from orchestrator.tuning.launches import Launch
from orchestrator.tuning.progress_table import best_of, head_of, rows_of
from orchestrator.tuning.slot_broker import Seen
from orchestrator.tuning.trial_store import Entry, Ledger

LOOK_EVERY_S = 0.5
WHAT = "saving what runs after its present step, and ending"


class Here:
    """The trials as the driver knows them, the wish to end, and whoever waits at the terminal.

    Tune pickles the searcher and the callbacks that hold it; such a copy knows nothing.
    """

    def __init__(self, job: TuneJob, ledger: Ledger, progress: Progress) -> None:
        self.job, self.ledger, self.progress = job, ledger, progress
        self.room = 1
        """Trials at once on the nodes of now."""

        self.why = ""
        """The limit of the budget that ended the sweep."""

        self._known: dict[int, Entry] = {}
        self._ending = threading.Event()
        self.hear_all()

    def __reduce__(self) -> tuple[object, ...]:
        return (object, ())

    @property
    def ending(self) -> bool:
        """Whether no trial may start any more."""
        return self._ending.is_set()

    def end(self, why: str = "") -> None:
        """Let no trial start, and those that run save and end."""
        self.why = self.why or why
        self._ending.set()

    def heard(self, number: int) -> Entry:
        """Read what the ledger says of a trial now."""
        entry = self.ledger.read(number)
        assert entry is not None, "the driver writes a trial down before it starts"
        self._known[number] = entry
        return entry

    def hear_all(self) -> None:
        """Read what the ledger says of all."""
        self._known = {entry.number: entry for entry in self.ledger.entries()}

    def known(self) -> list[Entry]:
        """All trials, as they were last heard of."""
        return [self._known[number] for number in sorted(self._known)]

    @contextmanager
    def watching(self, desk: Any, launch: Launch) -> Iterator[Asked]:
        """Within it a thread shows the sweep, counts what it takes, and hands on wishes to end."""
        closed = threading.Event()

        broken: list[Exception] = []

        def watch() -> None:
            try:
                while not closed.wait(LOOK_EVERY_S):
                    self._look(desk, launch)
            except ClusterLost:  # Tune finds out by itself
                pass
            except Exception as error:  # unwatched, the budget would hold nobody back
                broken.append(error)
                self.end()

        thread = threading.Thread(target=watch, daemon=True, name="watch-sweep")
        thread.start()
        try:
            with stopping_cleanly(self.end, self.progress.message, WHAT) as asked:
                yield asked
        finally:
            closed.set()
            thread.join()
        if broken:
            raise broken[0]
        self._look(desk, launch, last=True)

    def _look(self, desk: Any, launch: Launch, last: bool = False) -> None:
        seen: Seen = _ask(desk.seen)
        if seen.room != self.room:
            self.progress.message(f"room for {seen.room} trials at a time now, {self.room} before")
            self.room = seen.room
        self._show(seen)
        launch.note(seen, at_once=last)
        if not self.ending and (limit := launch.spent(self.job.limits)):
            self.progress.message(f"{limit} is reached: saving what runs, and ending")
            self.end(limit)
        if self.ending and "stopped" not in launch.record:
            launch.record["stopped"] = time.time()
            _ask(desk.ask_stop)

    def _show(self, seen: Seen) -> None:
        known = self.known()
        self.progress.table(head_of(self.job), rows_of(self.job, known, seen.doing))
        done, best = sum(entry.final for entry in known), best_of(known)
        facts: dict[str, float | str] = {} if best is None else {"best": best}
        total = max(self.job.trials, len(known))
        self.progress.update("sweep", done, total, facts)


def _ask(method: Any) -> Any:
    import ray

    try:
        return ray.get(method.remote())
    except ray.exceptions.RayError as error:
        raise ClusterLost.by(error) from None
