"""Models cut from checkpoints: no checkpoint is dropped before its model is out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.errors import DataError
from orchestrator.jepa.model_files import CONFIG_FILE, WEIGHTS_FILE, load_folder
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import TrainJob, build_job
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.eval_exports import (
    PendingEvaluationGuard,
    evaluation_folder,
    export_for_evaluation,
    exported_model_folder,
)
from orchestrator.training.checkpoints.manager import CheckpointManager, checkpoint_name
from orchestrator.training.engine.snapshot import Snapshot
from orchestrator.training.engine.tensor_slices import TensorSlice


def judged_job(**changes: Any) -> TrainJob:
    """100 steps; `a` is judged at every 20th, `b` at every 30th."""
    job = build_job(
        {
            "kind": "train",
            "name": "judged",
            "data": {"source": "unused", "frames": 4, "size": 16},
            "model": {
                "encoder": {"dim": 24, "depth": 1, "heads": 2},
                "patch": 8,
                "predictor": {"depth": 1, "dim": 24, "heads": 2},
            },
            "objective": {"masks": [{"targets": 0.5, "context": 0.25}]},
            "optim": {"steps": 100},
            "checkpoint": {"every": 10, "keep_last": 1, **changes},
            "evaluate": [
                {"every": 20, "job": {"name": "a"}},
                {"every": 30, "job": {"name": "b"}},
            ],
        }
    )
    assert isinstance(job, TrainJob)
    return job


def save(checkpoints: CheckpointManager, job: TrainJob, step: int) -> None:
    """A checkpoint of the job's model as it begins, with `step` added to every weight."""
    torch.manual_seed(0)
    objective = build_objective(job)
    slices = [
        TensorSlice("student", name, tuple(value.shape), 0, value.detach().reshape(-1) + step)
        for name, value in objective.named_parameters()
    ]
    assert objective.averaged is not None
    slices += [
        TensorSlice("teacher", name, tuple(value.shape), 0, value.detach().reshape(-1) - step)
        for name, value in objective.get_submodule(objective.averaged).named_parameters()
    ]
    checkpoints.save(Snapshot(step, step, slices), {}, {}, wait=True)


def of_run(folder: Storage, job: TrainJob) -> CheckpointManager:
    checkpoints = folder.subfolder("checkpoints")
    return CheckpointManager(
        checkpoints, 0, 1, job.checkpoint, is_protected=PendingEvaluationGuard(job, folder)
    )


def standing(checkpoints: CheckpointManager) -> list[int]:
    return [int(name[5:]) for name in checkpoints.complete_names()]


def test_a_checkpoint_stays_until_every_evaluation_has_its_model(tmp_path: Path) -> None:
    job, folder = judged_job(), Storage(str(tmp_path))
    checkpoints = of_run(folder, job)
    for step in (10, 20, 30):
        save(checkpoints, job, step)
    assert standing(checkpoints) == [20, 30], "10 is nobody's"
    export_for_evaluation(
        job, checkpoints.storage, checkpoint_name(20), evaluation_folder(folder, "a", 20)
    )
    save(checkpoints, job, 40)
    assert standing(checkpoints) == [30, 40]
    evaluation_folder(folder, "b", 30).write_json("result.json", {})  # it failed, or was skipped
    for step in (50, 60, 70):
        save(checkpoints, job, step)
    assert standing(checkpoints) == [40, 60, 70]
    export_for_evaluation(
        job, checkpoints.storage, checkpoint_name(60), evaluation_folder(folder, "a", 60)
    )
    save(checkpoints, job, 80)
    assert 60 in standing(checkpoints), "b has not read it"


def test_the_cap_is_kept_and_the_loss_is_told(tmp_path: Path) -> None:
    job, folder = judged_job(), Storage(str(tmp_path))
    save(of_run(folder, job), job, 10)
    size = sum(entry.size for entry in folder.files("checkpoints"))
    job = judged_job(max_bytes=int(2.5 * size))
    checkpoints = of_run(folder, job)
    for step in (20, 30):
        save(checkpoints, job, step)
    assert standing(checkpoints) == [30]
    with pytest.raises(DataError, match="not complete"):
        export_for_evaluation(
            job, checkpoints.storage, checkpoint_name(20), evaluation_folder(folder, "a", 20)
        )


def test_the_model_is_the_checkpoints(tmp_path: Path) -> None:
    job, folder = judged_job(), Storage(str(tmp_path))
    checkpoints = of_run(folder, job)
    save(checkpoints, job, 20)
    place = evaluation_folder(folder, "a", 20)
    export_for_evaluation(job, checkpoints.storage, checkpoint_name(20), place)
    assert {Path(entry.path).name for entry in place.files()} == {CONFIG_FILE, WEIGHTS_FILE}
    torch.manual_seed(0)
    wanted = build_objective(job).get_submodule("encoder").state_dict()
    with exported_model_folder(place) as model:
        found = load_folder(model).encoder.state_dict()
    for name, value in build_objective(job).get_submodule("encoder").named_parameters():
        assert value.shape == found[name].shape
        torch.testing.assert_close(found[name], wanted[name] - 20)  # the teacher's
