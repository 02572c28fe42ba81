"""`scheduler: pbt` on Ray Tune: members train to each rung, side by side; then a turn is taken."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from orchestrator.storage import Storage
from orchestrator.tuning.pbt_exploit import current_population
from orchestrator.tuning.pbt_fork import advance_generation, create_children, read_generations
from orchestrator.tuning.sampling import sample_point
from orchestrator.tuning.searchers import TrialSearcher
from orchestrator.tuning.sweep_state import SweepState
from orchestrator.tuning.trial_store import TrialRecord


class PopulationSearcher(TrialSearcher):
    """Says which member trains to the next rung: the part between two rungs is a trial of Tune's.

    Ray's own PBT stops and restarts trials by checkpoints of Tune's, holds what it decided in
    memory, and decides by which trial came first. Here a turn is taken when all have come.
    """

    def __init__(self, here: SweepState, shared: dict[str, Any], storage: Storage) -> None:
        super().__init__(here, shared)
        self._storage, self._folder = storage, Storage(shared["folder"])
        self._broken: set[int] = set()
        for number in range(here.job.trials):
            if here.ledger.read(number) is None:
                here.ledger.write(TrialRecord(number, sample_point(here.job, number, [])))
        turns = read_generations(self._folder)
        for children in turns:  # the last may have been cut short
            create_children(here.job, storage, here.ledger, children)
        self._rung = len(turns)
        here.reload_all()

    def _next(self) -> Any:
        here, running = self._here, set(self._running.values())
        while True:
            now = current_population(here.trials())
            behind = [n.number for n in now if not n.is_final and len(n.rungs) <= self._rung]
            free = [number for number in behind if number not in running | self._broken]
            if free:
                return free[0]
            if running:
                return None
            # Where a member's process died too often, all wait for the next launch.
            if behind or self._rung == len(here.job.rungs) - 1:
                return Searcher.FINISHED
            advance_generation(here.job, self._storage, self._folder, here.trials(), self._rung)
            self._rung += 1
            here.reload_all()

    def _ended(self, number: int, error: bool) -> None:
        if error:
            self._broken.add(number)
        self._here.reload_trial(number)
