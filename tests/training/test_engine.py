"""What a training step promises beside parity: skips, bf16, the teacher, what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.errors import JobFailed, RequestError
from orchestrator.estimate import BatchSizes
from orchestrator.jepa.objectives import Objective, ObjectiveOutput
from orchestrator.job.config.train import Checkpoint as Policy
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.manager import (
    CheckpointManager,
    checkpoint_name,
    read_full_tensors,
)
from orchestrator.training.control.control_signal import ControlSignal
from orchestrator.training.engine.spike_guard import MAX_SKIPPED, MIN_LOSSES
from tests.support.ranks import (
    gather_slices,
    make_engine,
    random_batch,
    rank_micro_batches,
    run_ranks,
    tiny_job,
    train_steps,
)

pytestmark = pytest.mark.integration


def state_of(engine: Any) -> list[torch.Tensor]:
    """Weights, moments and teacher of this rank."""
    return [piece.data for piece in engine.take_snapshot().slices]


def poison(rank: int, world: int) -> list[dict[str, Any]]:
    """At every stage and precision: two good steps, one with NaN on one rank, one good step."""
    out = []
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            engine = make_engine(tiny_job(scale={"zero": stage, "precision": precision}), world)
            train_steps(engine, rank, 0, 2)
            before = state_of(engine)
            batch = rank_micro_batches(random_batch(2), engine.batch_plan, rank)
            if rank == 1:
                batch[0].weight[0] = float("nan")
            result = engine.train_step(batch)
            kept = all(torch.equal(a, b) for a, b in zip(before, state_of(engine), strict=True))
            copy = [p.clone() for p in engine.teacher.parameters()]
            good = engine.train_step(rank_micro_batches(random_batch(3), engine.batch_plan, rank))
            moved = any(
                not torch.equal(a, b)
                for a, b in zip(copy, engine.teacher.parameters(), strict=True)
            )
            out.append(
                {
                    "case": (stage, precision),
                    "applied": (result.applied, good.applied),
                    "kept": kept,
                    "moved": moved,
                    "adam": engine.adam_step,
                    "step": engine.step,
                }
            )
    return out


def test_a_gradient_that_is_not_finite_changes_nothing_on_any_rank() -> None:
    for rank in run_ranks(2, poison):
        for found in rank:
            assert found["applied"] == (False, True), found
            assert found["kept"], found
            assert found["moved"], found
            assert (found["adam"], found["step"]) == (3, 4), found


def poison_for_ever(rank: int, world: int) -> int:
    engine = make_engine(tiny_job(scale={"zero": 1}), world)
    batch = rank_micro_batches(random_batch(1), engine.batch_plan, rank)
    batch[0].weight[0] = float("nan")
    for _ in range(MAX_SKIPPED - 1):
        assert not engine.train_step(batch).applied
    with pytest.raises(JobFailed, match="not finite"):
        engine.train_step(batch)
    return int(engine.step)


def test_a_lost_run_is_stopped() -> None:
    assert run_ranks(1, poison_for_ever) == [MAX_SKIPPED]


def spike(rank: int, world: int) -> list[dict[str, Any]]:
    """At every stage: steps enough for a median, then one whose limit its loss exceeds."""
    out = []
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            engine = make_engine(tiny_job(scale={"zero": stage, "precision": precision}), world)
            losses = train_steps(engine, rank, 0, MIN_LOSSES)
            bound = engine.spike_guard.threshold
            before = state_of(engine)
            engine.spike_guard.limit = 0.5  # the next loss is above half the median
            batch = rank_micro_batches(random_batch(MIN_LOSSES), engine.batch_plan, rank)
            said = ControlSignal.STOP if rank == 0 else ControlSignal.NONE
            result = engine.train_step(batch, said)
            kept = all(torch.equal(a, b) for a, b in zip(before, state_of(engine), strict=True))
            engine.spike_guard.limit = 5.0
            good = engine.train_step(
                rank_micro_batches(random_batch(MIN_LOSSES + 1), engine.batch_plan, rank)
            )
            out.append(
                {
                    "case": (stage, precision),
                    "bound": bound / sorted(losses)[MIN_LOSSES // 2],
                    "applied": (result.applied, good.applied),
                    "kept": kept,
                    "remembered": len(engine.spike_guard.recent),
                    "signals": (result.control, good.control),
                }
            )
    return out


def test_a_spike_is_not_applied_on_any_rank_and_rank_zeros_signal_reaches_all() -> None:
    for rank in run_ranks(2, spike):
        for found in rank:
            assert found["bound"] == pytest.approx(5.0, rel=0.2), found
            assert found["applied"] == (False, True), found
            assert found["kept"], found
            assert found["remembered"] == MIN_LOSSES + 1, found
            assert found["signals"] == (ControlSignal.STOP, ControlSignal.NONE), found


def compute_in_bf16(rank: int, world: int) -> dict[int, Any]:
    out = {}
    for stage in (0, 1, 2, 3):
        engine = make_engine(tiny_job(scale={"zero": stage, "precision": "bf16"}), world)
        first = engine.take_snapshot().slices
        losses = train_steps(engine, rank, 0, 10)
        dtypes = {p.dtype for p in engine.teacher.parameters()}
        engine.ema_teacher.verify()
        out[stage] = (first, losses, dtypes, engine.take_snapshot().slices)
    return out


def test_bf16_keeps_fp32_masters_from_the_first_step_and_agrees_between_stages() -> None:
    from orchestrator.jepa.objectives import build_objective

    ranks = run_ranks(2, compute_in_bf16)
    exact = {n: p.detach().view(-1) for n, p in build_objective(tiny_job()).named_parameters()}
    lasts = {}
    for stage in (0, 1, 2, 3):
        masters = gather_slices([s for rank in ranks for s in rank[stage][0]], "student")
        assert all(torch.equal(masters[name], value) for name, value in exact.items())
        assert ranks[0][stage][2] == {torch.bfloat16}
        assert ranks[0][stage][1] == pytest.approx(ranks[0][0][1], abs=2e-3)
        last = gather_slices([s for rank in ranks for s in rank[stage][3]], "student")
        lasts[stage] = torch.cat([last[name] - exact[name] for name in exact])
    # Moments are fp32 at every stage: the ways that they went point the same way.
    for stage in (1, 2, 3):
        cosine = torch.nn.functional.cosine_similarity(lasts[stage], lasts[0], dim=0)
        assert float(cosine) > 0.99


TEACHER_STEPS = 2000


def follow(rank: int, world: int) -> dict[str, Any]:
    """2,000 bf16 steps at momentum 0.999 beside a float64 recurrence over the fp32 students."""
    job = tiny_job(
        scale={"zero": 1, "precision": "bf16", "global_batch": 1, "micro_batch": 1},
        ema=0.999,
        depth=1,
        steps=TEACHER_STEPS,
        lr=1e-3,
    )
    engine = make_engine(job, world)
    shards = engine.ema_teacher.shards
    reference = torch.cat([s.master for s in shards]).double()
    start = reference.clone()
    batches = [
        rank_micro_batches(random_batch(i, rows=1), engine.batch_plan, rank) for i in range(8)
    ]
    for (batch,) in batches:
        del batch.masks[1:]
    for step in range(TEACHER_STEPS):
        engine.train_step(batches[step % 8])
        reference = 0.999 * reference + 0.001 * torch.cat([s.master for s in shards]).double()
    found = torch.cat(engine.ema_teacher.shard_values).double()
    engine.ema_teacher.verify()
    return {
        "error": float((found - reference).square().sum()),
        "moved": float((reference - start).square().sum()),
        "copy": {n: p.clone() for n, p in engine.teacher.named_parameters()},
        "distance": engine.teacher_distance,
        "last": engine.take_snapshot().slices,
    }


def test_a_bf16_teacher_follows_for_two_thousand_steps() -> None:
    ranks = run_ranks(1, follow)
    error, moved = (sum(rank[key] for rank in ranks) ** 0.5 for key in ("error", "moved"))
    assert error < 0.01 * moved
    slices = [s for rank in ranks for s in rank["last"]]
    teacher, student = gather_slices(slices, "teacher"), gather_slices(slices, "student")
    for rank in ranks:
        for name, values in rank["copy"].items():
            assert torch.equal(values.view(-1), teacher[name].bfloat16()), name
    both = [(teacher[n], student[f"encoder.{n}"]) for n in teacher]
    apart = sum(float((t - s).square().sum()) for t, s in both) ** 0.5
    size = sum(float(s.square().sum()) for _, s in both) ** 0.5
    assert ranks[0]["distance"] == pytest.approx(apart / size, rel=1e-4)


def measure(rank: int, world: int) -> dict[str, Any]:
    engine = make_engine(tiny_job(scale={"zero": 1, "micro_batch": 4}), world)
    result = engine.train_step(rank_micro_batches(random_batch(0), engine.batch_plan, rank))
    return {
        "clips": result.num_clips,
        "features": tuple(result.features.shape),
        "lr": result.lr,
        "times": set(result.phase_seconds),
        "teacher has a gradient": any(p.requires_grad for p in engine.teacher.parameters()),
    }


def test_a_step_says_what_it_was() -> None:
    first, second = run_ranks(2, measure)
    # Clip 0 of the eight has failed: it counts nowhere, and its features are not looked at.
    assert first["clips"] == second["clips"] == 7
    assert first["features"] == (3, 8, 24)
    assert second["features"] == (4, 8, 24)
    assert first["lr"] == pytest.approx(1e-4 / 5)
    assert first["times"] == {"teacher", "student", "update", "step"}
    assert not first["teacher has a gradient"]


def all_failed(rank: int, world: int) -> tuple[float, float, float, bool]:
    engine = make_engine(tiny_job(scale={"zero": 1}), world)
    batch = random_batch(0)
    batch.weight.zero_()
    result = engine.train_step(rank_micro_batches(batch, engine.batch_plan, rank))
    return result.loss, result.grad_norm, result.num_clips, result.applied


def test_a_step_whose_clips_all_failed_has_no_gradient() -> None:
    assert run_ranks(1, all_failed) == [(0.0, 0.0, 0.0, True)]


def offload_at_stage_zero(rank: int, world: int) -> str:
    with pytest.raises(RequestError) as caught:
        make_engine(tiny_job(scale={"zero": 0, "offload": True}), world)
    return str(caught.value)


def test_offload_without_a_sharded_optimizer_is_refused() -> None:
    assert "scale.offload" in run_ranks(1, offload_at_stage_zero)[0]


class Regression(Objective):
    """No teacher, no masks, and one tensor that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Linear(4 * 32 * 32 * 3, 4)
        self.scale = torch.nn.Parameter(torch.full((2,), 3.0), requires_grad=False)

    def forward(self, video: Any, masks: Any, targets: Any) -> ObjectiveOutput:
        assert targets is None
        out = self.encoder(video.flatten(1)) * self.scale[0]
        return ObjectiveOutput(out.float().square().mean(1), out.detach()[:, None])


def without_teacher(rank: int, world: int, root: str) -> list[list[float]]:
    from orchestrator.training.engine.engine import Engine

    out = []
    for stage in (0, 1, 3):
        job = tiny_job(scale={"zero": stage})
        plan = BatchSizes.from_scale(job.scale, world)
        engine = Engine(Regression(), job, plan, torch.device("cpu"))
        assert engine.teacher is None
        out.append(train_steps(engine, rank, 0, 4))
        checkpoints = CheckpointManager(Storage(f"{root}/{stage}"), rank, world, Policy())
        checkpoints.save(engine.take_snapshot(), {}, {}, wait=True)
    return out


def test_an_objective_without_a_teacher_and_with_frozen_weights(tmp_path: Path) -> None:
    losses = run_ranks(2, without_teacher, str(tmp_path))
    assert losses[0] == losses[1]
    for stage, found in zip((0, 1, 3), losses[0], strict=True):
        assert found == pytest.approx(losses[0][0], rel=1e-5)
        assert found[-1] < found[0]
        tensors = read_full_tensors(Storage(str(tmp_path / str(stage))), checkpoint_name(4))
        assert set(tensors) == {"student/encoder.weight", "student/encoder.bias", "student/scale"}
        assert tensors["student/scale"].tolist() == [3.0, 3.0]
