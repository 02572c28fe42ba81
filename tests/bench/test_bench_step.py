"""The step's bench times what it says: the same model, the same data, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.bench.training_step import bench_step, random_batch, single_process_job
from orchestrator.bench.vjepa2_reference import vjepa2_step
from orchestrator.errors import RequestError
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import TrainJob, build_job


def small_job(**scale: Any) -> TrainJob:
    job = build_job(
        {
            "kind": "train",
            "name": "small",
            "data": {"source": "unused", "frames": 4, "size": 32},
            "model": {
                "encoder": {"dim": 24, "depth": 1, "heads": 2},
                "patch": 8,
                "tubelet": 2,
                "predictor": {"dim": 12, "depth": 1, "heads": 2},
            },
            "optim": {"steps": 100},
            "scale": {"global_batch": 8, "micro_batch": 2, "device": "cpu", **scale},
        }
    )
    assert isinstance(job, TrainJob)
    return job


@pytest.mark.integration
@pytest.mark.parametrize(("zero", "precision"), [(0, "fp32"), (1, "bf16")])
def test_the_contenders_train_the_same_model(
    zero: int, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bench_step(small_job(zero=zero, precision=precision), steps=3)
    assert found["first_loss"]["ours"] == pytest.approx(found["first_loss"]["deepspeed"])
    assert set(found["step_s"]) == {"ours", "deepspeed"}
    assert found["clips"] == 2
    assert found["clips_per_s"] == pytest.approx(2 / found["step_s"]["ours"])
    assert found["mfu"] is None
    assert capsys.readouterr().out == ""


def test_batches_hold_the_jobs_own_masks() -> None:
    job = single_process_job(small_job())
    batch = random_batch(job, 0, torch.device("cpu"))
    assert batch.video.shape == (2, 4, 32, 32, 3)
    assert len(batch.masks) == len(job.objective.masks)  # type: ignore[union-attr]


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    job = small_job()
    with pytest.raises(RequestError, match="not a checkout"):
        vjepa2_step(tmp_path, build_objective(job), job, torch.device("cpu"))
