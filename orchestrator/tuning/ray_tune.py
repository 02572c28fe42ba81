"""Trials on Ray Tune: it starts them, starts them again, and halves.

A trial's process reserves no core; Ray Train reserves its workers, once the desk gave it room.
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
from orchestrator.job.config.tune import REDUCTION
from orchestrator.job.search_space import trial_name
from orchestrator.ray_session import find_parts_in, python_path
from orchestrator.storage import Storage
from orchestrator.training.control.signals import Asked
from orchestrator.training.driver import Stopped
from orchestrator.tuning.capacity import Room
from orchestrator.tuning.launches import Launch
from orchestrator.tuning.pbt_searcher import Population
from orchestrator.tuning.searchers import LedgerSearch, TrialSearch
from orchestrator.tuning.slot_broker import DeskGate, open_desk
from orchestrator.tuning.sweep_state import Here
from orchestrator.tuning.trial import Trial
from orchestrator.tuning.trial_store import Entry, Ledger
from orchestrator.unexpected import one_line

NO_CORE = {"memory": 1}
"""What a trial's own process reserves: a byte. Tune takes no empty request, and any share of a
core could be the one that another trial's worker waits for."""

STARTS = 3
"""Times that a trial is started again after its process died."""


class RayTrial(tune.Trainable):  # type: ignore[misc]
    """Ray Tune's actor of a trial; a step of it is a rung."""

    def setup(self, config: dict[str, Any]) -> None:
        """Find the trial; nothing is trained."""
        find_parts_in(config["python_path"])
        job = build_job(config["job"])
        assert isinstance(job, TuneJob)
        number, folder = config["number"], Storage(config["folder"])
        gate = DeskGate(config["desk"], number)
        self._trial = Trial(job, number, folder, config["cpus"], config["parent"], gate=gate)
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
                entry = self._trial.advance()
            except Stopped:  # the sweep ends; the trial is saved, and goes on another time
                return {"done": True}
        if self._told == len(entry.rungs):  # it failed
            return {"done": True}
        row = entry.rungs[self._told]
        self._told += 1
        value = math.nan if row["objective"] is None else row["objective"]
        done = entry.final and self._told == len(entry.rungs)
        done = done or self._trial.job.scheduler == "pbt"
        return {"steps": row["steps"], "objective": value, "done": done}


class Halving(ASHAScheduler):  # type: ignore[misc]
    """Ray's asynchronous successive halving, whose decisions are written down."""

    def __init__(self, job: TuneJob, ledger: Ledger) -> None:
        super().__init__(
            time_attr="steps",
            metric="objective",
            mode="max",
            max_t=job.steps,
            grace_period=job.rungs[0],
            reduction_factor=REDUCTION,
        )
        self._job, self._ledger = job, ledger

    def replay(self, entries: Sequence[Entry]) -> None:
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


class Hearing(tune.Callback):  # type: ignore[misc]
    """Reads a trial's file anew when something became of it."""

    def __init__(self, here: Here, desk: Any) -> None:
        self._here, self._desk = here, desk

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A rung was reached."""
        self._here.heard(trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial has ended."""
        self._here.heard(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial's process died once too often: others may have its room."""
        self._desk.leaves.remote(trial.config["number"])


@dataclass(frozen=True)
class Ended:
    """How Ray Tune ended."""

    broken: list[str]
    """What broke trials off, one line each."""

    details: str
    """Their tracebacks."""

    limit: str
    """The limit of the budget that ended it."""

    asked: Asked
    """The signal that did."""


def run_trials(
    here: Here, folder: Storage, waiting: Sequence[int], room: Room, parent: str
) -> Ended:
    """Train every waiting trial to its end, or until the sweep shall end."""
    # A trial runs where the driver does, so that paths stay what they are, and NaN is a result.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # we tell by ourselves
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # trials are saved first
    job, ledger, desk = here.job, here.ledger, open_desk(room, here.job.train.scale)
    here.room = room.trials
    shared = {
        "job": job_dict(job),
        "folder": folder.root,
        "cpus": room.cpus,
        "parent": parent,
        "python_path": python_path(),
        "desk": desk,
    }
    search: TrialSearch = LedgerSearch(here, shared, waiting)
    scheduler, most = None, len(waiting)
    if job.scheduler == "pbt":
        search, most = Population(here, shared, Storage(job.storage)), len(job.rungs) * job.trials
    if job.scheduler == "asha":
        scheduler = Halving(job, ledger)
        scheduler.replay([one for one in ledger.entries(job.trials) if one.final])
    with tempfile.TemporaryDirectory() as thrown_away:
        tuner = tune.Tuner(
            tune.with_resources(RayTrial, tune.PlacementGroupFactory([NO_CORE])),
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
                callbacks=[Hearing(here, desk)],
                failure_config=tune.FailureConfig(max_failures=STARTS),
                # A trial's state is its training's checkpoint and its line in the ledger.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        with here.watching(desk, Launch(folder, waiting)) as asked:
            grid = tuner.fit()
    broken = [one_line(error) for error in grid.errors]
    return Ended(broken, "\n".join(map(str, grid.errors)), here.why, asked)
