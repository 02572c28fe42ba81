"""Can trials be ranked without labels? Train many, and correlate every score with a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from orchestrator.bench.in_process_training import (
    TrialTrainer,
    cached_result,
    require_same_job,
    train_in_process,
)
from orchestrator.errors import JobFailed
from orchestrator.jepa.model_files import WorldModel
from orchestrator.job import TuneJob
from orchestrator.job.loading.search_space import Point
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tuning.sampling import check_sampled_trials, sample_point
from orchestrator.tuning.trial_metrics import log_lidar
from orchestrator.tuning.trial_scoring import (
    Holdout,
    objective_scores,
    prepare_holdout_for,
    score_trial,
)

RESAMPLES = 2000


def bench_tuning_objectives(
    job: TuneJob, trials: int, confidence: float, progress: Progress, out: Path | None = None
) -> dict[str, Any]:
    """Train `trials` points of the job's space, drawn at random, and score each model by the
    labelled probe and by everything that needs no labels.

    Args:
        out: folder that models and results are kept in, and not made again; None: nowhere.

    Raises:
        RequestError: the job's data carries nothing to probe.
    """
    probe = job.objective.model_copy(update={"metric": "probe"})
    job = job.model_copy(update={"objective": probe, "trials": trials, "search": "random"})
    check_sampled_trials(job)
    require_same_job(out, job)
    folder = Storage(job.storage).subfolder("sweeps", job.name)
    prepare_holdout_for(job, folder, progress, local=True)
    bench = TrialTrainer(job, progress)
    rows = []
    for number in range(trials):
        point = sample_point(job, number, [])
        row: dict[str, Any] = {"trial": number, "point": point}
        row |= cached_result(
            out, f"trial-{number}", partial(train_and_score, bench, number, point, out)
        )
        progress.update("trials", number + 1, trials, row["scores"])
        rows.append(row)
    return {"trials": rows} | rank_correlations(rows, confidence)


def train_and_score(
    bench: TrialTrainer, number: int, point: Point, out: Path | None
) -> dict[str, Any]:
    """Gates after a tenth and at the end, the loss, and every score of the end."""
    train = bench.train_job(number, point)
    held, rungs = bench.holdout(train), (bench.job.rungs[0], bench.job.rungs[-1])
    found: dict[str, Any] = {"shut": []}
    keep = out / train.name if out else None
    try:
        for reached in train_in_process(train, bench.clips(train), rungs, keep):
            seen = score_trial(reached.model, bench.job.gates, held)
            words = [f"step {reached.steps}: {one}" for one in seen["shut"]]
            found["shut"] = found["shut"] or words
            found["early" if reached.steps == rungs[0] else "gates"] = seen["gates"]
            found["loss"] = reached.loss
    except JobFailed as error:  # it diverged
        return found | {"shut": [error.what], "scores": {}}
    return found | {"scores": all_scores(reached.model, held, found)}


def all_scores(model: WorldModel, held: Holdout, found: dict[str, Any]) -> dict[str, float]:
    """All scores of a model: `probe` is the reference, the others use no labels."""
    gates, retrieval = found["gates"], replace(held, metric="retrieval")
    parts = objective_scores(model, retrieval) if model.masks else {}
    whole = {"retrieval": float(np.mean(list(parts.values())))} if parts else {}
    signs = {name: gates[name] for name in ("rankme_share",)}
    return {
        "probe": float(np.mean(list(objective_scores(model, held).values()))),
        **whole,
        **{f"only {name}": value for name, value in parts.items()},
        "log LiDAR": log_lidar(model, held.videos),
        **signs,
        "-loss": -found["loss"],
    }


def rank_correlations(rows: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """Spearman's rank correlation of each score with the probe, over the trials that no gate
    shut, with a bootstrap interval over trials."""
    open_rows = [row["scores"] for row in rows if not row["shut"]]
    table: dict[str, Any] = {"compared": len(open_rows), "shut": len(rows) - len(open_rows)}
    truth = np.array([row["probe"] for row in open_rows])
    table["correlation"] = {
        name: spearman_with_interval(truth, np.array([row[name] for row in open_rows]), confidence)
        for name in (open_rows[0] if len(open_rows) > 2 else ())
        if name != "probe" and all(name in row for row in open_rows)
    }
    return table


def spearman_with_interval(x: np.ndarray, y: np.ndarray, confidence: float) -> dict[str, float]:
    """Spearman's correlation of x with y, float [n] each, and its bootstrap interval."""
    chosen = np.random.default_rng(0).integers(0, len(x), (RESAMPLES, len(x)))
    drawn = [spearman(x[some], y[some]) for some in chosen]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return {"value": spearman(x, y), "low": float(low), "high": float(high)}


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of ranks; equal values share the mean of theirs. NaN: no variance."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)
