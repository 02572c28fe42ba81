"""Trials on Ray Tune: it starts them, starts them again, and halves.

A trial's process reserves no core; Ray Train reserves its workers, once the broker gave it room.
Tune's own snapshots, which are pickles, go to a folder that is thrown away: what is known of a
sweep is in our ledger.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from orchestrator.job import TuneJob, build_job, job_dict
from orchestrator.job.config.tune import ASHA_REDUCTION_FACTOR
from orchestrator.job.loading.search_space import trial_name
from orchestrator.ray_session import add_to_sys_path, custom_code_folders
from orchestrator.storage import Storage
from orchestrator.training.control.signals import Stopped, StopRequest
from orchestrator.tuning.capacity import SweepCapacity
from orchestrator.tuning.launches import SweepLaunch
from orchestrator.tuning.pbt_searcher import PopulationSearcher
from orchestrator.tuning.searchers import StoreSearcher, TrialSearcher
from orchestrator.tuning.slot_broker import TrialSlot, start_slot_broker
from orchestrator.tuning.sweep_state import SweepState
from orchestrator.tuning.trial import Trial
from orchestrator.tuning.trial_store import TrialRecord, TrialStore
from orchestrator.unexpected import one_line

TRIAL_RESOURCES = {"memory": 1}
"""What a trial's own process reserves: a byte. Tune takes no empty request, and any share of a
core could be the one that another trial's worker waits for."""

MAX_TRIAL_RESTARTS = 3
"""Times that a trial is started again after its process died."""


class TrialTrainable(tune.Trainable):  # type: ignore[misc]
    """Ray Tune's actor of a trial; a step of it is a rung."""

    def setup(self, config: dict[str, Any]) -> None:
        """Find the trial; nothing is trained."""
        add_to_sys_path(config["python_path"])
        job = build_job(config["job"])
        assert isinstance(job, TuneJob)
        number, folder = config["number"], Storage(config["folder"])
        gate = TrialSlot(config["desk"], number)
        self._trial = Trial(job, number, folder, config["cpus"], config["parent"], slot=gate)
        self._told = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in the same process, which starting anew would take seconds."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next rung: as the ledger has it, or trained now."""
        entry = self._trial.ledger.read(self._trial.number)
        assert entry is not None
        if self._trial.job.scheduler == "pbt":  # one rung: who goes on from it is decided then
            self._told = len(entry.rungs)
        if self._told == len(entry.rungs):
            try:
                entry = self._trial.train_to_next_rung()
            except Stopped:  # the sweep ends; the trial is saved, and goes on another time
                return {"done": True}
        if self._told == len(entry.rungs):  # it failed
            return {"done": True}
        row = entry.rungs[self._told]
        self._told += 1
        value = math.nan if row["objective"] is None else row["objective"]
        done = entry.is_final and self._told == len(entry.rungs)
        done = done or self._trial.job.scheduler == "pbt"
        return {"steps": row["steps"], "objective": value, "done": done}


class StoredASHAScheduler(ASHAScheduler):  # type: ignore[misc]
    """Ray's asynchronous successive halving, whose decisions are written down."""

    def __init__(self, job: TuneJob, ledger: TrialStore) -> None:
        super().__init__(
            time_attr="steps",
            metric="objective",
            mode="max",
            max_t=job.steps,
            grace_period=job.rungs[0],
            reduction_factor=ASHA_REDUCTION_FACTOR,
        )
        self._job, self._ledger = job, ledger

    def replay(self, entries: Sequence[TrialRecord]) -> None:
        """Hear again what trials that have ended scored; nothing is decided about them."""
        for entry in entries:
            known = SimpleNamespace(trial_id=trial_name(self._job, entry.number))
            super().on_trial_add(None, known)
            for row in entry.rungs:
                if row["objective"] is not None:
                    super().on_trial_result(None, known, row)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ray's decision; where it ends a trial, the ledger knows before the trial does."""
        action = str(super().on_trial_result(tune_controller, trial, result))
        if action == TrialScheduler.STOP and result["steps"] < self._job.steps:
            entry = self._ledger.read(trial.config["number"])
            assert entry is not None
            self._ledger.write(replace(entry, state="pruned"))
        return action


class TrialStoreCallback(tune.Callback):  # type: ignore[misc]
    """Reads a trial's file anew when something became of it."""

    def __init__(self, state: SweepState, desk: Any) -> None:
        self._here, self._desk = state, desk

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A rung was reached."""
        self._here.reload_trial(trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial has ended."""
        self._here.reload_trial(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial's process died once too often: others may have its room."""
        self._desk.leaves.remote(trial.config["number"])


@dataclass(frozen=True)
class TuneOutcome:
    """How Ray Tune ended."""

    errors: list[str]
    """What broke trials off, one line each."""

    details: str
    """Their tracebacks."""

    limit_reached: str
    """The limit of the budget that ended it."""

    stop_request: StopRequest
    """The signal that did."""


def run_trials(
    state: SweepState,
    folder: Storage,
    waiting: Sequence[int],
    capacity: SweepCapacity,
    parent_run_id: str,
) -> TuneOutcome:
    """Train every waiting trial to its end, or until the sweep shall end."""
    # A trial runs where the driver does, so that paths stay what they are, and NaN is a result.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # we tell by ourselves
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # trials are saved first
    job, ledger, desk = state.job, state.ledger, start_slot_broker(capacity, state.job.train.scale)
    state.concurrent_trials = capacity.max_concurrent_trials
    shared = {
        "job": job_dict(job),
        "folder": folder.root,
        "cpus": capacity.cpus_per_worker,
        "parent": parent_run_id,
        "python_path": custom_code_folders(),
        "desk": desk,
    }
    search: TrialSearcher = StoreSearcher(state, shared, waiting)
    scheduler, most = None, len(waiting)
    if job.scheduler == "pbt":
        search, most = (
            PopulationSearcher(state, shared, Storage(job.storage)),
            len(job.rungs) * job.trials,
        )
    if job.scheduler == "asha":
        scheduler = StoredASHAScheduler(job, ledger)
        scheduler.replay([one for one in ledger.records(job.trials) if one.is_final])
    with tempfile.TemporaryDirectory() as thrown_away:
        tuner = tune.Tuner(
            tune.with_resources(TrialTrainable, tune.PlacementGroupFactory([TRIAL_RESOURCES])),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=scheduler,
                num_samples=most,
                trial_dirname_creator=lambda trial: trial.trial_id,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=job.name,
                storage_path=thrown_away,
                verbose=0,
                callbacks=[TrialStoreCallback(state, desk)],
                failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_RESTARTS),
                # A trial's state is its training's checkpoint and its line in the ledger.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        with state.monitoring(desk, SweepLaunch(folder, waiting)) as asked:
            grid = tuner.fit()
    broken = [one_line(error) for error in grid.errors]
    return TuneOutcome(broken, "\n".join(map(str, grid.errors)), state.limit_reached, asked)
