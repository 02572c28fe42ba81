"""A tiny sweep, for the tests of the tuning room."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from orchestrator.job import TuneJob, build_job
from orchestrator.storage import Storage
from orchestrator.tracking.results.studies import open_parent_run
from orchestrator.tuning.trial import Trial
from orchestrator.tuning.trial_store import TrialRecord, TrialStore

TRAIN_SECTION: dict[str, Any] = {
    "data": {
        "source": "physics://drop?clips=8&size=32&fps=8&seconds=2",
        "frames": 8,
        "fps": 8.0,
        "size": 32,
    },
    "model": {
        "encoder": {"dim": 24, "depth": 2, "heads": 2},
        "patch": 8,
        "tubelet": 2,
        "predictor": {"dim": 12, "depth": 1, "heads": 2},
    },
    "objective": {"kind": "vjepa2", "ema": 0.99, "masks": [{"targets": 0.5, "context": 0.24}]},
    "optim": {"steps": 100, "lr": 1e-3},
    "scale": {"global_batch": 4, "micro_batch": 4, "precision": "fp32", "device": "cpu"},
    "checkpoint": {"every": 1000, "keep_last": 1},
    "track": {"every": 1, "pictures": 0},
}
SPACE: dict[str, Any] = {
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
    "objective.ema": {"choice": [0.9, 0.99, 0.0]},
}


def tune_job(folder: Path, *overrides: str, **keys: Any) -> TuneJob:
    data: dict[str, Any] = {
        "kind": "tune",
        "name": "search",
        "storage": str(folder),
        "train": TRAIN_SECTION,
        "space": SPACE,
        "trials": 4,
        "budget": 20,
        "objective": {"fit": 10, "score": 4},
    }
    job = build_job(data | keys, list(overrides))
    assert isinstance(job, TuneJob)
    return job


def make_trial(job: TuneJob, number: int, point: dict[str, Any]) -> Trial:
    """A trial without Ray, written down as the driver does before it starts."""
    storage = Storage(job.storage)
    folder = storage.subfolder("sweeps", job.name)
    parent = open_parent_run(job, None, "default", storage, folder)
    ledger = TrialStore(folder)
    if ledger.read(number) is None:
        ledger.write(TrialRecord(number, point))
    return Trial(job, number, folder, 1.0, parent.run_id, local=True)


def run_to_end(trial: Trial) -> TrialRecord:
    """Every rung that is left."""
    while not (entry := trial.train_to_next_rung()).is_final:
        pass
    return entry


if __name__ == "__main__":  # a driver that can be killed
    torch.set_num_threads(1)
    struck = tune_job(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    run_to_end(make_trial(struck, 0, {"optim.lr": 1e-3, "objective.ema": 0.99}))
