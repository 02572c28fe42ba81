"""Trials on Ray Tune: it starts them, holds back what has no room, and halves.

A trial's process reserves no core; Ray Train reserves its workers. Tune's own snapshots, which
are pickles, go to a folder that is thrown away: what is known of a sweep is in our ledger.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.data.prepare import prepare
from orchestrator.job import TrainJob, TuneJob, build_job, job_dict
from orchestrator.job.space import trial_data, trial_name
from orchestrator.job.tune import REDUCTION
from orchestrator.progress import Progress, Silent
from orchestrator.ray_session import find_parts_in, python_path
from orchestrator.storage import Storage
from orchestrator.tuning.admission import Room
from orchestrator.tuning.draws import draw
from orchestrator.tuning.ledger import Entry, Ledger
from orchestrator.tuning.trial import Trial

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
        self._trial = Trial(
            job, config["number"], Storage(config["folder"]), config["cpus"], config["parent"]
        )
        self._told = 0

    def step(self) -> dict[str, Any]:
        """The next rung: as the ledger has it, or trained now."""
        entry = self._trial.ledger.read(self._trial.number)
        assert entry is not None
        if self._told == len(entry.rungs):
            entry = self._trial.advance()
        if self._told == len(entry.rungs):  # it failed
            return {"done": True}
        row = entry.rungs[self._told]
        self._told += 1
        value = math.nan if row["objective"] is None else row["objective"]
        done = entry.final and self._told == len(entry.rungs)
        return {"steps": row["steps"], "objective": value, "done": done}


class Held:
    """A progress that Tune's pickles leave out: a copy says nothing."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __reduce__(self) -> tuple[object, ...]:
        return (Held, (Silent(),))


class LedgerSearch(Searcher):  # type: ignore[misc]
    """Tells Ray Tune what to try: trials that were begun, then new ones as Optuna draws them."""

    def __init__(
        self,
        job: TuneJob,
        ledger: Ledger,
        waiting: Sequence[int],
        shared: dict[str, Any],
        held: Held,
    ) -> None:
        super().__init__(metric="objective", mode="max")
        self._job, self._ledger, self._shared = job, ledger, shared
        self._waiting, self._held = list(waiting), held

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; its file is written and its data packed first."""
        if not self._waiting:
            return Searcher.FINISHED
        number = self._waiting.pop(0)
        entry = self._ledger.read(number)
        if entry is None:
            known = self._ledger.entries(self._job.trials)
            entry = Entry(number, draw(self._job, number, known))
            self._ledger.write(entry)
        train = build_job(trial_data(self._job, number, entry.point))
        assert isinstance(train, TrainJob)
        # Here, since all that a trial's process starts must fit into what that reserves.
        prepare(train, self._held.progress)
        return {**self._shared, "number": number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The trial wrote down itself what came of it."""

    def save(self, checkpoint_path: str) -> None:
        """The ledger is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """The ledger is the memory."""


class Halving(ASHAScheduler):  # type: ignore[misc]
    """Ray's asynchronous successive halving, whose decisions are written down."""

    def __init__(self, job: TuneJob, ledger: Ledger) -> None:
        super().__init__(
            time_attr="steps",
            metric="objective",
            mode="max",
            max_t=job.budget,
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
        if action == TrialScheduler.STOP and result["steps"] < self._job.budget:
            entry = self._ledger.read(trial.config["number"])
            assert entry is not None
            self._ledger.write(replace(entry, state="pruned"))
        return action


class Telling(tune.Callback):  # type: ignore[misc]
    """Tells whoever waits what trials come to."""

    def __init__(self, job: TuneJob, ledger: Ledger, held: Held) -> None:
        self._job, self._ledger, self._held = job, ledger, held
        self._said: dict[int, Entry] = {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial's process starts."""
        self._tell(trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A rung was reached."""
        self._tell(trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial has ended."""
        self._tell(trial.config["number"])

    def _tell(self, number: int) -> None:
        entry = self._ledger.read(number)
        assert entry is not None
        if self._said.get(number) == entry:
            return  # Tune tells of a trial's last rung and of its end
        self._said[number] = entry
        self._held.progress.message(line_of(entry))
        known = self._ledger.entries(self._job.trials)
        done = sum(one.final for one in known)
        values = [one.value for one in known if one.state == "done" and one.value is not None]
        best: dict[str, float | str] = {"best": max(values)} if values else {}
        self._held.progress.update("sweep", done, self._job.trials, best)


def line_of(entry: Entry) -> str:
    """A row of the live table: trial, its values, step, objective, state."""
    values = "  ".join(f"{key}={shown(value)}" for key, value in entry.point.items())
    score = "" if entry.value is None else f"  objective {entry.value:.4f}"
    why = ", ".join(entry.rungs[-1]["shut"]) if entry.rungs else ""
    reason = entry.error.splitlines()[0] if entry.error else why
    tail = f": {reason}" if reason else ""
    return f"trial {entry.number:>3}  {values}  step {entry.steps:,}{score}  {entry.state}{tail}"


def shown(value: Any) -> str:
    """A value of a point, short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return str(value.get("kind", value))
    return str(value)


def run_trials(
    job: TuneJob,
    folder: Storage,
    waiting: Sequence[int],
    room: Room,
    parent: str,
    progress: Progress,
) -> list[str]:
    """Train every waiting trial to its end; returns what broke trials off, one line each."""
    # A trial runs where the driver does, so that paths stay what they are, and NaN is a result.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # we tell by ourselves
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    ledger = Ledger(folder)
    shared = {
        "job": job_dict(job),
        "folder": folder.root,
        "cpus": room.cpus,
        "parent": parent,
        "python_path": python_path(),
    }
    scheduler = None
    if job.scheduler == "asha":
        scheduler = Halving(job, ledger)
        scheduler.replay([one for one in ledger.entries(job.trials) if one.final])
    with tempfile.TemporaryDirectory() as thrown_away:
        tuner = tune.Tuner(
            tune.with_resources(RayTrial, tune.PlacementGroupFactory([NO_CORE])),
            tune_config=tune.TuneConfig(
                search_alg=LedgerSearch(job, ledger, waiting, shared, Held(progress)),
                scheduler=scheduler,
                num_samples=len(waiting),
                max_concurrent_trials=room.trials,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=job.name,
                storage_path=thrown_away,
                verbose=0,
                callbacks=[Telling(job, ledger, Held(progress))],
                failure_config=tune.FailureConfig(max_failures=STARTS),
                # A trial's state is its training's checkpoint and its line in the ledger.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        grid = tuner.fit()
    return [str(error).strip().splitlines()[-1] for error in grid.errors]
