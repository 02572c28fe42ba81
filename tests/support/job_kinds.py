"""The smallest job of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.job import Job, build_job

TRAIN: dict[str, Any] = {"data": {"source": "videos"}, "optim": {"steps": 1}}
JOBS: dict[str, dict[str, Any]] = {
    "pack": {"source": "videos"},
    "train": TRAIN,
    "embed": {"model": "models:/m@champion", "data": {"source": "videos"}},
    "evaluate": {"model": "models:/m@champion"},
    "study": {
        "arms": {"pixels": {"kind": "pixels"}, "random": None},
        "clips": [10, 20],
        "seeds": [0],
        "backgrounds": ["still"],
        "data": {"source": "physics://drop"},
        "optim": {"steps": 1},
    },
    "tune": {
        "train": TRAIN,
        "trials": 2,
        "budget": 10,
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
    },
    "promote": {"model": "models:/m/1"},
}
JOBS["pipeline"] = {
    "stages": [
        {"name": "train", "job": {"kind": "train", **TRAIN}},
        {"name": "judge", "job": {"kind": "evaluate", "model": "stages:/train/model"}},
    ]
}


def job_of(kind: str, storage: Path | str = "nowhere") -> Job:
    return build_job({"kind": kind, "name": "one", "storage": str(storage), **JOBS[kind]})
