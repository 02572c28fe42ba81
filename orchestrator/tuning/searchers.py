"""What Ray Tune is told to try next, and when: the ledger's trials, then new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from orchestrator.data.packing.prepare import prepare_data
from orchestrator.job import TrainJob, TuneJob, build_job
from orchestrator.job.loading.search_space import trial_job_data
from orchestrator.training.resolve.actions import resolve_actions
from orchestrator.tuning.sampling import sample_point
from orchestrator.tuning.sweep_state import SweepState
from orchestrator.tuning.trial_store import TrialRecord

MIN_READY_TRIALS = 2
"""Least trials whose processes run beside those that train, so that room is taken as soon as it is
there; a quarter of those that train where that is more."""


def num_ready_trials(job: TuneJob, room: int) -> int:
    """Trials beside `room` of them. One where values are drawn from what is known: each that is
    drawn ahead of its turn knows less."""
    return 1 if job.search == "tpe" else max(MIN_READY_TRIALS, room // 4)


class TrialSearcher(Searcher):  # type: ignore[misc]
    """Holds back what has no room yet, and ends when the sweep does."""

    def __init__(self, here: SweepState, shared: dict[str, Any]) -> None:
        super().__init__(metric="objective", mode="max")
        self._here, self._shared = here, shared
        self._running: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; its file is written and its data packed first."""
        here = self._here
        if here.is_stopping:
            return Searcher.FINISHED
        if len(self._running) >= here.concurrent_trials + num_ready_trials(
            here.job, here.concurrent_trials
        ):
            return None
        found = self._next()
        if found is None or found == Searcher.FINISHED:
            return found
        entry = here.reload_trial(found)
        train = build_job(trial_job_data(here.job, found, entry.point))
        assert isinstance(train, TrainJob)
        # Here, since all that a trial's process starts must fit into what that reserves.
        resolve_actions(train, prepare_data(train, here.progress), here.progress, local=False)
        self._running[trial_id] = found
        return {**self._shared, "number": found}

    def _next(self) -> Any:
        """A trial's number; None where one must end first; FINISHED where none is left."""
        raise NotImplementedError

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The trial wrote down itself what came of it."""
        self._ended(self._running.pop(trial_id), error)

    def _ended(self, number: int, error: bool) -> None:
        """A trial, or its part, has ended; `error`: its process died too often."""

    def save(self, checkpoint_path: str) -> None:
        """The ledger is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """The ledger is the memory."""


class StoreSearcher(TrialSearcher):
    """Trials that were begun, then new ones as Optuna draws them."""

    def __init__(self, here: SweepState, shared: dict[str, Any], waiting: Sequence[int]) -> None:
        super().__init__(here, shared)
        self._waiting = list(waiting)

    def _next(self) -> Any:
        if not self._waiting:
            return Searcher.FINISHED
        number, here = self._waiting.pop(0), self._here
        if here.ledger.read(number) is None:
            here.ledger.write(TrialRecord(number, sample_point(here.job, number, here.trials())))
        return number
