"""The frozen encoder of a model that acts: found, refused by name, kept in the model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_acting_parity import acted, acting_job
from test_fixed_teacher import teacher_in

from orchestrator.errors import RequestError
from orchestrator.estimate import BatchSizes
from orchestrator.jepa.action_conditioned import ActionConditionedModel
from orchestrator.jepa.model_files import load_folder
from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.objectives.frozen.objective import teacher_width
from orchestrator.job import VJEPA2AC, TrainJob, build_job, job_dict
from orchestrator.job.config.train import Checkpoint as Policy
from orchestrator.storage import Storage
from orchestrator.tracking.run_description import initial_description, result_description
from orchestrator.training.checkpoints.export import export_model
from orchestrator.training.checkpoints.manager import CheckpointManager, checkpoint_name
from orchestrator.training.resolve.frozen_teacher import (
    load_teacher,
    materialize_teacher,
    resolve_teacher,
)
from tests.support.objectives import rank_micro_batches_with_keys
from tests.support.ranks import run_ranks


def taught_job(teacher: Path, *overrides: str, **scale: Any) -> TrainJob:
    """A job that says nothing of its encoder."""
    data = job_dict(acting_job("vjepa2ac", micro_batch=2, **scale))
    data["objective"] |= {"teacher": str(teacher), "encoder": None}
    for key in ("encoder", "rope", "levels"):
        del data["model"][key]
    job = build_job(data, overrides)
    assert isinstance(job, TrainJob)
    return job


def test_the_models_encoder_is_the_teacher(tmp_path: Path) -> None:
    teacher, storage = teacher_in(tmp_path / "t", rope="paired"), Storage(str(tmp_path))
    job = resolve_teacher(taught_job(teacher), storage)
    theirs = load_folder(teacher).config.model
    assert (job.model.encoder, job.model.rope) == (theirs.encoder, "paired")
    assert isinstance(job.objective, VJEPA2AC)
    assert job.objective.encoder == theirs.encoder
    assert teacher_width(job.objective, job) == 12
    assert resolve_teacher(job, storage) == job
    for overrides, text in (
        (["model.patch=4"], "patches of 8 pixels and 2 frames, the job's 4"),
        (["data.size=64"], r"4 x 4 patches \(32 pixels\), the job's 8 x 8 \(64\)"),
        (["model.encoder={dim: 24, depth: 1, heads: 2}"], r"another \(model\.encoder\)"),
        (["model.rope=tiled"], r"another \(model\.rope\)"),
    ):
        with pytest.raises(RequestError, match=text):
            resolve_teacher(taught_job(teacher, *overrides), storage)


def test_a_note_says_how_it_is_told(tmp_path: Path) -> None:
    job = resolve_teacher(taught_job(teacher_in(tmp_path / "t")), Storage(str(tmp_path)))
    assert "V-JEPA 2-AC" in initial_description(job)

    class Ended:
        seconds, steps, clips_per_s, checkpoint, model_uri = 1.0, 2, 3.0, "c", "m"
        metrics: dict[str, float] = {}  # noqa: RUF012
        next_steps: tuple[str, ...] = ()
        dataset = {"clips": 1, "hours": 1.0, "bytes": 1, "quarantined": 0, "digest": "d"}  # noqa: RUF012

    note = result_description(job, Ended(), {})
    assert "[B, 4, 32, 32, 3] -> float32 [B, 64, 12]" in note
    assert "model.predict(tokens, actions, states)  # actions float32 [B, moments, 4]" in note


def train_and_save(rank: int, world: int, root: str, teacher: str) -> None:
    from orchestrator.training.engine.engine import Engine

    storage = Storage(root)
    folder = storage.subfolder("runs", "tiny")
    job = resolve_teacher(taught_job(Path(teacher), zero=3), storage)
    if rank == 0:
        materialize_teacher(job, storage, folder)
    torch.distributed.barrier()
    batch, fixed = BatchSizes.from_scale(job.scale, world), load_teacher(job, folder)
    engine = Engine(build_objective(job), job, batch, torch.device("cpu"), fixed)
    engine.train_step(rank_micro_batches_with_keys(acted(1), batch, rank))
    checkpoints = CheckpointManager(folder.subfolder("checkpoints"), rank, world, Policy())
    checkpoints.save(engine.take_snapshot(), {}, {}, wait=True)


@pytest.mark.integration
def test_what_is_kept_encodes_and_predicts_by_itself(tmp_path: Path) -> None:
    teacher, storage = teacher_in(tmp_path / "t"), Storage(str(tmp_path))
    run_ranks(2, train_and_save, str(tmp_path), str(teacher))
    job = resolve_teacher(taught_job(teacher), storage)
    checkpoints, out = storage.subfolder("runs", "tiny", "checkpoints"), tmp_path / "model"
    export_model(job, checkpoints, checkpoint_name(1), out)
    model = load_folder(out)
    assert isinstance(model, ActionConditionedModel)
    exact = load_folder(teacher).encoder.state_dict()
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, exact[name]), name
    fresh = build_objective(job).predictor.state_dict()  # type: ignore[union-attr, operator]
    assert not torch.equal(model.predictor.state_dict()["proj.weight"], fresh["proj.weight"])
    z = model.encode(acted(0).video[:2, :2])
    assert model.predict(z, torch.ones(2, 3, 4), torch.zeros(2, 2, 4)).shape == (2, 2 * 16, 12)
