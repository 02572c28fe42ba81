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
from orchestrator.training.control.signals import StopRequest, graceful_shutdown
from orchestrator.tuning.launches import SweepLaunch
from orchestrator.tuning.progress_table import best_objective, table_header, table_rows
from orchestrator.tuning.slot_broker import SlotBrokerStatus
from orchestrator.tuning.trial_store import TrialRecord, TrialStore

POLL_INTERVAL_S = 0.5
STOPPING_NOTICE = "saving what runs after its present step, and ending"


class SweepState:
    """The trials as the driver knows them, the wish to end, and whoever waits at the terminal.

    Tune pickles the searcher and the callbacks that hold it; such a copy knows nothing.
    """

    def __init__(self, job: TuneJob, ledger: TrialStore, progress: Progress) -> None:
        self.job, self.ledger, self.progress = job, ledger, progress
        self.concurrent_trials = 1
        """Trials at once on the nodes of now."""

        self.limit_reached = ""
        """The limit of the budget that ended the sweep."""

        self._known: dict[int, TrialRecord] = {}
        self._ending = threading.Event()
        self.reload_all()

    def __reduce__(self) -> tuple[object, ...]:
        return (object, ())

    @property
    def is_stopping(self) -> bool:
        """Whether no trial may start any more."""
        return self._ending.is_set()

    def stop(self, limit: str = "") -> None:
        """Let no trial start, and those that run save and end."""
        self.limit_reached = self.limit_reached or limit
        self._ending.set()

    def reload_trial(self, number: int) -> TrialRecord:
        """Read what the ledger says of a trial now."""
        entry = self.ledger.read(number)
        assert entry is not None, "the driver writes a trial down before it starts"
        self._known[number] = entry
        return entry

    def reload_all(self) -> None:
        """Read what the ledger says of all."""
        self._known = {entry.number: entry for entry in self.ledger.records()}

    def trials(self) -> list[TrialRecord]:
        """All trials, as they were last heard of."""
        return [self._known[number] for number in sorted(self._known)]

    @contextmanager
    def monitoring(self, desk: Any, launch: SweepLaunch) -> Iterator[StopRequest]:
        """Within it a thread shows the sweep, counts what it takes, and hands on wishes to end."""
        closed = threading.Event()

        broken: list[Exception] = []

        def watch() -> None:
            try:
                while not closed.wait(POLL_INTERVAL_S):
                    self._poll(desk, launch)
            except ClusterLost:  # Tune finds out by itself
                pass
            except Exception as error:  # unwatched, the budget would hold nobody back
                broken.append(error)
                self.stop()

        thread = threading.Thread(target=watch, daemon=True, name="watch-sweep")
        thread.start()
        try:
            with graceful_shutdown(self.stop, self.progress.message, STOPPING_NOTICE) as asked:
                yield asked
        finally:
            closed.set()
            thread.join()
        if broken:
            raise broken[0]
        self._poll(desk, launch, last=True)

    def _poll(self, desk: Any, launch: SweepLaunch, last: bool = False) -> None:
        seen: SlotBrokerStatus = _call(desk.status)
        if seen.concurrent_trials != self.concurrent_trials:
            self.progress.message(
                f"room for {seen.concurrent_trials} trials at a time now,"
                f" {self.concurrent_trials} before"
            )
            self.concurrent_trials = seen.concurrent_trials
        self._show(seen)
        launch.record_usage(seen, at_once=last)
        if not self.is_stopping and (limit := launch.budget_exhausted(self.job.limits)):
            self.progress.message(f"{limit} is reached: saving what runs, and ending")
            self.stop(limit)
        if self.is_stopping and "stopped" not in launch.record:
            launch.record["stopped"] = time.time()
            _call(desk.request_stop)

    def _show(self, seen: SlotBrokerStatus) -> None:
        known = self.trials()
        self.progress.table(table_header(self.job), table_rows(self.job, known, seen.trial_phases))
        done, best = sum(entry.is_final for entry in known), best_objective(known)
        facts: dict[str, float | str] = {} if best is None else {"best": best}
        total = max(self.job.trials, len(known))
        self.progress.update("sweep", done, total, facts)


def _call(method: Any) -> Any:
    import ray

    try:
        return ray.get(method.remote())
    except ray.exceptions.RayError as error:
        raise ClusterLost.from_ray_error(error) from None
