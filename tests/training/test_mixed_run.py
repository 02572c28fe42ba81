"""A training of video, pictures and a third shape: stopped, continued at another size, audited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from orchestrator import load_model
from orchestrator.data.auditing.clip_ledger import read_clip_ledger
from orchestrator.data.loader.order import Order
from orchestrator.errors import RequestError
from orchestrator.evaluation.in_training.scheduler import EvaluationScheduler
from orchestrator.job import TrainJob, build_job
from orchestrator.progress import SilentProgress
from orchestrator.runner import run
from orchestrator.storage import Storage
from orchestrator.training.audit import audit_run
from orchestrator.training.control.signals import Stopped
from orchestrator.training.driver import run_train

pytestmark = pytest.mark.integration

STEPS, BATCH = 8, 3


def mixed_job(folder: Path, **changes: Any) -> TrainJob:
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    for seed in range(3):
        blocks = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(photos / f"{seed}.png")
    videos = "physics://mixed?clips=4&size=48&fps=8&seconds=2"
    job = build_job(
        {
            "kind": "train",
            "name": "mixed",
            "storage": str(folder),
            "data": {
                "frames": 4,
                "fps": 4.0,
                "size": 32,
                "decode_threads": 1,
                "sources": [
                    {"uri": videos, "weight": 2},
                    {"uri": f"{videos}&seed=1", "weight": 1, "size": 48},
                    {"uri": str(photos), "weight": 1, "frames": 2},
                ],
            },
            "model": {
                "encoder": {"kind": "vit", "dim": 24, "depth": 1, "heads": 2},
                "patch": 8,
                "predictor": {"depth": 1, "dim": 12, "heads": 2},
            },
            "objective": {
                "kind": "vjepa2",
                "ema": 0.9,
                "masks": [{"targets": 0.5, "context": 0.25}],
            },
            "optim": {"steps": STEPS, "lr": 1e-3, "warmup": 1},
            "scale": {"workers": 2, "global_batch": BATCH, "micro_batch": 2, "precision": "fp32"}
            | changes,
            "checkpoint": {"every": 4},
            "track": {"experiment": "tests", "every": 4},
        }
    )
    assert isinstance(job, TrainJob)
    return job


def test_trained_on_ray_stopped_resumed_and_audited(tmp_path: Path) -> None:
    job = mixed_job(tmp_path)
    options: Any = {"fresh": False, "profile": False, "open_evaluations": EvaluationScheduler}
    with pytest.raises(Stopped):
        run_train(job, SilentProgress(), **options, local=False, stop_after_step=5)
    other = mixed_job(tmp_path, global_batch=4)
    with pytest.raises(RequestError, match=r"scale\.global_batch: 3 -> 4"):
        run(other, local=True)
    summary = run(job, local=True)  # one worker where there were two

    report = audit_run(Storage(str(tmp_path)), "mixed")
    assert (report.wrong, report.trained, report.failed) == ([], STEPS * BATCH, 0)
    rows = read_clip_ledger(Storage(str(tmp_path)).subfolder("runs", "mixed", "ledger")).to_pydict()
    order = Order.from_job(job, [np.array([4]), np.array([4]), np.array([3])], [2.0, 1.0, 1.0])
    buckets = {at // BATCH: order.bucket_of_step(at // BATCH) for at in rows["position"]}
    assert set(buckets.values()) == {0, 1, 2}

    client = MlflowClient(summary.tracking_uri)
    metrics = client.get_run(summary.run_id).data.metrics
    assert {f"bucket/{b}/loss" for b in ("4x32", "4x48", "2x32")} <= metrics.keys()
    assert metrics["health/rankme"] > 1
    pictures = {f.path for f in client.list_artifacts(summary.run_id, "pictures")}
    assert pictures
    state = json.loads((tmp_path / "runs/mixed/checkpoints/step-00000008/state.json").read_text())
    assert sum(map(len, state["recent_losses"].values())) == STEPS
    # What is exported is data's own shape.
    model = load_model(summary.model_uri, tracking_uri=summary.tracking_uri)
    features = model.encode(np.zeros((1, 4, 32, 32, 3), np.uint8))
    assert features.shape == (1, 32, 24)
