"""A frozen teacher: its loss in float64, what is refused, and that nothing moves it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from orchestrator.errors import DataError, RequestError
from orchestrator.estimate import BatchSizes, estimate_job
from orchestrator.jepa.model_files import load_folder, save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob, build_job, job_dict
from orchestrator.storage import Storage
from orchestrator.training.resolve.frozen_teacher import (
    TEACHER_FOLDER,
    load_teacher,
    materialize_teacher,
    resolve_teacher,
)
from orchestrator.training.run_record import open_record
from tests.support.objectives import (
    OBJECTIVES,
    global_batch,
    objective_job,
    rank_micro_batches_with_keys,
)
from tests.support.ranks import run_ranks

SMALL = {"dim": 12, "depth": 1, "heads": 2}


def teacher_in(folder: Path, seed: int = 1, **model: Any) -> Path:
    """A teacher of pixels, smaller than the student, as a training leaves it."""
    data = job_dict(objective_job(OBJECTIVES["pixels"])) | {"seed": seed}
    data["model"] |= {"encoder": SMALL, **model}
    job = build_job(data)
    assert isinstance(job, TrainJob)
    save_model(folder, build_objective(job), None, job, {})
    return folder


def student_of(teacher: Path, **scale: Any) -> TrainJob:
    return objective_job({"kind": "frozen", "teacher": str(teacher)}, **scale)


def test_the_teacher_of_an_objective_of_ones_own_is_resolved_and_kept_too(tmp_path: Path) -> None:
    storage, run = Storage(str(tmp_path)), Storage(str(tmp_path)).subfolder("run")
    keys = {
        "kind": "tests.support.own_objective:OwnFrozenTeacher",
        "teacher": str(teacher_in(tmp_path / "t")),
    }
    job = resolve_teacher(objective_job(keys), storage)
    teacher_keys = job.objective_config.pretrained_teacher
    assert teacher_keys is not None
    assert teacher_keys.encoder is not None
    assert teacher_keys.digest is not None
    again = build_job(job_dict(job))
    assert isinstance(again, TrainJob)
    assert again.objective_config == job.objective_config
    materialize_teacher(job, storage, run)
    assert load_teacher(job, run) is not None
    assert estimate_job(job).flops is not None
    build_objective(job)


def naive(objective: Any, teacher: Any, batch: Any) -> torch.Tensor:
    """Weighted mean over clips, float64, one clip and mask at a time."""
    video = normalise(batch.video, torch.float32).double()
    total = torch.zeros((), dtype=torch.float64)
    for clip in range(len(video)):
        x = video[clip : clip + 1]
        wanted = teacher(x)[0]
        mean = wanted.mean(-1, keepdim=True)
        wanted = (wanted - mean) / torch.sqrt(((wanted - mean) ** 2).mean(-1, keepdim=True) + 1e-5)
        for i, (context, target) in enumerate(batch.masks):
            seen, asked = context[clip : clip + 1], target[clip : clip + 1]
            guess = objective.predictor(objective.encoder(x, seen), seen, asked, i)[0]
            error = (guess - wanted.detach()[asked[0]]).abs().mean()
            total = total + error * batch.weight[clip].double() / len(batch.masks)
    return total / batch.weight.double().sum()


def test_loss_and_gradients_against_a_naive_float64_reference(tmp_path: Path) -> None:
    job = resolve_teacher(student_of(teacher_in(tmp_path / "t")), Storage(str(tmp_path)))
    objective, teacher = build_objective(job), load_folder(tmp_path / "t").encoder
    batch = global_batch(0)
    video = normalise(batch.video, torch.float32)
    targets = objective.targets(teacher, video)
    assert targets.shape == (8, 32, 12)
    clips = objective(video, batch.masks, targets).loss
    loss = (clips * batch.weight).sum() / batch.weight.sum()
    loss.backward()
    exact = copy.deepcopy(objective).double()
    exact.zero_grad()
    wanted = naive(exact, copy.deepcopy(teacher).double(), batch)
    wanted.backward()
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for (name, ours), theirs in zip(objective.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert F.mse_loss(ours.grad.double(), theirs.grad) < 1e-10, name


def test_the_teacher_is_part_of_a_runs_identity(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    folder = storage.subfolder("runs", "tiny")
    asked = student_of(teacher_in(tmp_path / "t"))
    job = resolve_teacher(asked, storage)
    open_record(job, folder, "data", fresh=False).save(folder)
    materialize_teacher(job, storage, folder)
    kept = load_teacher(job, folder)
    assert kept is not None
    there = load_folder(tmp_path / "t").encoder.state_dict()
    assert all(torch.equal(there[name], value) for name, value in kept.state_dict().items())

    # Another one under the same name: a run that goes on refuses it, and its own copy stays.
    teacher_in(tmp_path / "t", seed=2)
    with pytest.raises(RequestError, match=r"objective\.digest"):
        open_record(resolve_teacher(asked, storage), folder, "data", fresh=False)
    assert load_teacher(job, folder) is not None
    path = tmp_path / "runs" / "tiny" / TEACHER_FOLDER / "model.safetensors"
    path.write_bytes((tmp_path / "t" / "model.safetensors").read_bytes())
    with pytest.raises(DataError, match="not those that the run began with"):
        load_teacher(job, folder)


def test_a_teacher_that_cannot_teach_is_refused_by_name(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(RequestError, match="patches of 4 pixels and 2 frames, the job's 8"):
        resolve_teacher(student_of(teacher_in(tmp_path / "p", patch=4)), storage)
    with pytest.raises(RequestError, match="no model folder"):
        resolve_teacher(student_of(tmp_path / "none"), storage)
    teacher = teacher_in(tmp_path / "t")
    for key, value, text in (
        ("encoder", {"dim": 24, "depth": 1, "heads": 2}, "another encoder"),
        ("digest", "0" * 16, "the job asks for 0000"),
    ):
        job = objective_job({"kind": "frozen", "teacher": str(teacher), key: value})
        with pytest.raises(RequestError, match=text):
            resolve_teacher(job, storage)
    with pytest.raises(RequestError, match="not known before it is read"):
        build_objective(student_of(teacher))


def train_student(rank: int, world: int, teacher: str) -> list[Any]:
    from orchestrator.training.engine.engine import Engine

    cases = []
    for stage, micro, precision in (
        (0, 2, "fp32"), (1, 2, "fp32"), (2, 4, "fp32"), (3, 2, "fp32"), (1, 2, "bf16"),
    ):  # fmt: skip
        scale = {"zero": stage, "micro_batch": micro, "precision": precision}
        job = resolve_teacher(student_of(Path(teacher), **scale), Storage(teacher))
        batch, fixed = BatchSizes.from_scale(job.scale, world), load_folder(Path(teacher)).encoder
        engine = Engine(build_objective(job), job, batch, torch.device("cpu"), fixed)
        losses = [
            engine.train_step(rank_micro_batches_with_keys(global_batch(step), batch, rank)).loss
            for step in range(3)
        ]
        whole = {name: value.float().clone() for name, value in fixed.state_dict().items()}
        kinds = {slice_.kind for slice_ in engine.take_snapshot().slices}
        cases.append((losses, whole, kinds, fixed.patch_embed.proj.weight.dtype))
    return cases


@pytest.mark.integration
def test_a_student_trains_the_same_at_every_size_and_stage(tmp_path: Path) -> None:
    teacher = teacher_in(tmp_path / "t")
    one, two = (run_ranks(world, train_student, str(teacher))[0] for world in (1, 2))
    plain = one[0][0]
    assert plain[0] != plain[-1]
    exact = load_folder(teacher).encoder.state_dict()
    for losses, whole, kinds, dtype in (*one, *two):
        coarse = dtype == torch.bfloat16
        assert losses == pytest.approx(plain, rel=0.01 if coarse else 1e-5)
        assert kinds == {"student", "exp_avg", "exp_avg_sq"}
        for name, value in whole.items():
            assert torch.equal(value, exact[name].to(dtype).float()), name
