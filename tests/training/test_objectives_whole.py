"""Objectives without a teacher that was trained, from video to a model that is judged, through the
real parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from orchestrator import load_model
from orchestrator.errors import DataError, RequestError
from orchestrator.job import build_job
from orchestrator.runner import run

MASKS = [{"kind": "future", "visible": [1, 1], "targets": 0.4, "context": 0.2}]
FAMILIES = ["drop", "ramp", "lever", "collision", "occlusion", "launch", "wall"]
OBJECTIVES: dict[str, dict[str, Any]] = {
    "lejepa": {"kind": "lejepa", "slices": 8, "statistic_clips": 2, "masks": MASKS},
    "lewm": {"kind": "lewm", "slices": 8, "statistic_clips": 2, "hidden": 24},
    "pixels": {"kind": "pixels", "masks": MASKS},
    "dynamics": {"kind": "dynamics", "horizons": 2, "masks": [{"targets": 0.2}]},
    "supervised": {"kind": "supervised", "classes": FAMILIES},
}


def train_job(storage: Path, objective: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "train",
        "name": "tiny",
        "storage": str(storage),
        "data": {
            "source": "physics://mixed?clips=14&size=32&fps=8&seconds=2",
            "frames": 8,
            "fps": 8.0,
            "size": 32,
            "decode_threads": 1,
        },
        "model": {
            "encoder": {"kind": "codes", "dim": 24}
            if objective["kind"] == "dynamics"
            else {"dim": 24, "depth": 2, "heads": 2}
            | ({"attention": "moment"} if objective["kind"] == "lewm" else {}),
            "patch": 8,
            "predictor": {"depth": 1, "dim": 16, "heads": 2},
        },
        "objective": objective,
        "optim": {"steps": 2, "lr": 1e-3},
        "scale": {"global_batch": 4, "micro_batch": 2, "precision": "fp32", "cpus": 1},
        "checkpoint": {"every": 1},
        "track": {"register": "tiny", "every": 1, "pictures": 0},
    }


@pytest.mark.integration
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_trained_logged_exported_loaded_and_judged(tmp_path: Path, kind: str) -> None:
    summary = run(build_job(train_job(tmp_path, OBJECTIVES[kind])), local=True)
    client = MlflowClient(summary.tracking_uri)
    metrics = client.get_run(summary.run_id).data.metrics
    assert np.isfinite(metrics["train/loss"])
    assert "health/rankme" in metrics
    assert "health/teacher_distance" not in metrics
    drawn = {Path(f.path).name for f in client.list_artifacts(summary.run_id, "pictures")}
    wanted = {"masks"} if kind == "dynamics" else {"features", "features_over_time"}
    assert wanted <= drawn

    model = load_model(summary.model_uri, tracking_uri=summary.tracking_uri)
    video = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
    assert model.encode(video).shape == (2, 4 if kind == "lewm" else 64, 24)

    judge = build_job(
        {
            "kind": "evaluate",
            "name": "judged",
            "storage": str(tmp_path),
            "model": summary.model_uri,
            "suite": {"scenarios": ["support"], "quads": 4, "choose_quads": 1},
            "random": 1,
            "random_quads": 1,
            "track": {"uri": summary.tracking_uri},
        }
    )
    if kind == "supervised":
        with pytest.raises(RequestError, match="has no predictor here"):
            run(judge, local=True)
        return
    verdict = run(judge, local=True).verdict
    assert 0 <= verdict["overall"]["pair"]["value"] <= 1
    assert np.isfinite(verdict["rollout"][0]["error"]["model"])


@pytest.mark.integration
def test_a_class_that_the_job_does_not_name_stops_the_run(tmp_path: Path) -> None:
    job = train_job(tmp_path, OBJECTIVES["supervised"] | {"classes": FAMILIES[:2]})
    with pytest.raises(DataError, match="the job names drop, ramp"):
        run(build_job(job), local=True)
