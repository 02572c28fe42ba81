"""Compare search methods at equal budgets: TPE with ASHA, and random search."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from orchestrator.bench.in_process_training import (
    TrialTrainer,
    cached_result,
    require_same_job,
    train_in_process,
)
from orchestrator.errors import JobFailed
from orchestrator.jepa.model_files import WorldModel
from orchestrator.job import TuneJob
from orchestrator.job.config.tune import ASHA_REDUCTION_FACTOR
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tuning.sampling import check_sampled_trials, sample_point
from orchestrator.tuning.trial_scoring import (
    load_holdout,
    objective_scores,
    prepare_holdout_for,
    score_trial,
)
from orchestrator.tuning.trial_store import TrialRecord

METHODS = {"random": ("random", "fifo"), "tpe + asha": ("tpe", "asha")}
"""Search and scheduler of each."""

TRIAL_END_STATES = ("done", "pruned", "collapsed", "failed")
"""Final states of trials; one that is cut off by the end of the budget has none."""

BUDGET_FRACTIONS = (1 / 3, 2 / 3, 1.0)
"""Fractions of the budget at which the best trial so far is reported."""


def bench_search(
    job: TuneJob, seeds: int, progress: Progress, out: Path | None = None
) -> dict[str, Any]:
    """Search with each method and seed for as many steps as `job.trials` whole trials take.

    Trials are trained one after the other in this process. The winner is scored once more, on
    videos that no trial was scored on.

    Args:
        out: folder that results are kept in, and not made again; None: nowhere.

    Raises:
        RequestError: the job cannot be searched.
    """
    check_sampled_trials(job)
    require_same_job(out, job)
    folder = Storage(job.storage).subfolder("sweeps", job.name)
    prepare_holdout_for(job, folder, progress, local=True)
    rows = []
    for seed in range(seeds):
        for method, (kind, scheduler) in METHODS.items():
            changed = {"search": kind, "scheduler": scheduler, "seed": seed, "first": ()}
            row: dict[str, Any] = {"method": method, "seed": seed}
            search = SequentialSweep(job.model_copy(update=changed), progress)
            row |= cached_result(
                out, f"{kind}-{job.trials}-{seed}", partial(search.run, job.trials)
            )
            rows.append(row)
            done, best = len(rows), row["best"][-1]
            progress.update("searches", done, seeds * len(METHODS), {"best": best or "none"})
    return {"rows": rows, "steps": rows[0]["steps"]} | _summary(rows)


class SequentialSweep:
    """One sweep, trial after trial."""

    def __init__(self, job: TuneJob, progress: Progress) -> None:
        self._job, self._bench = job, TrialTrainer(job, progress)
        self._halving = _asha_scheduler(job) if job.scheduler == "asha" else None
        self._entries: list[TrialRecord] = []
        self._used = 0
        self._curve: list[tuple[int, float]] = []
        self._winner: WorldModel | None = None

    def run(self, trials: int) -> dict[str, Any]:
        """Search for the steps of so many whole trials; the last one may end too early."""
        whole = trials * self._job.rungs[-1]
        while self._used < whole:
            self._trial(len(self._entries), whole)
        states: list[str] = [entry.state for entry in self._entries]
        return {
            "steps": whole,
            "best": [self._best(share * whole) for share in BUDGET_FRACTIONS],
            "fresh": self._score_on_new_videos(),
            **{state: states.count(state) for state in TRIAL_END_STATES},
        }

    def _trial(self, number: int, whole: int) -> None:
        point = sample_point(self._job, number, self._entries)
        entry, train = TrialRecord(number, point), self._bench.train_job(number, point)
        at = SimpleNamespace(trial_id=train.name)
        if self._halving is not None:
            self._halving.on_trial_add(None, at)
        rungs = [rung for rung in self._job.rungs if self._used + rung <= whole]
        if not rungs:
            self._used = whole
            return
        began, model = self._used, None
        try:
            for reached in train_in_process(train, self._bench.clips(train), rungs):
                self._used, model = began + reached.steps, reached.model
                seen = score_trial(model, self._job.gates, self._bench.holdout(train))
                row = {"steps": reached.steps, **seen}
                entry = replace(entry, rungs=[*entry.rungs, row], state=self._state(at, row))
                if entry.state != "running":
                    break
        except JobFailed:  # it diverged; what it took until the next rung is taken
            self._used = began + next(one for one in rungs if one > self._used - began)
            entry = replace(entry, state="failed")
        self._entries.append(entry)
        self._keep(entry, model)

    def _state(self, at: SimpleNamespace, row: dict[str, Any]) -> Any:
        if row["shut"]:
            return "collapsed"
        if row["steps"] == self._job.rungs[-1]:
            return "done"
        if self._halving is None:
            return "running"
        ended = self._halving.on_trial_result(None, at, row) == "STOP"
        return "pruned" if ended else "running"

    def _keep(self, entry: TrialRecord, model: WorldModel | None) -> None:
        if entry.state != "done" or entry.objective is None:
            return
        if not self._curve or entry.objective > self._curve[-1][1]:
            self._curve.append((self._used, entry.objective))
            self._winner = model

    def _best(self, steps: float) -> float | None:
        values = [value for used, value in self._curve if used <= steps]
        return values[-1] if values else None

    def _score_on_new_videos(self) -> float | None:
        """The winner's objective on videos that it was not chosen by."""
        if self._winner is None:
            return None
        held = load_holdout(self._job, self._job.train, unseen=True)
        scores = objective_scores(self._winner, held)
        return float(np.mean(list(scores.values())))


def _asha_scheduler(job: TuneJob) -> Any:
    """Ray's asynchronous successive halving, which needs no cluster to decide."""
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr="steps",
        metric="objective",
        mode="max",
        max_t=job.rungs[-1],
        grace_period=job.rungs[0],
        reduction_factor=ASHA_REDUCTION_FACTOR,
    )


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, by method."""
    means = {}
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        best = [[row["best"][i] for row in mine] for i in range(len(BUDGET_FRACTIONS))]
        means[method] = {
            "best": [_mean(some) for some in best],
            "fresh": _mean([row["fresh"] for row in mine]),
        }
    return {"means": means}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
