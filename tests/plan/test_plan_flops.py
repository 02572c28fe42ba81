"""The plan's FLOPs and weights against the built model and torch's own counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.estimate import estimate_job
from orchestrator.estimate.zero3_persistent import persistent_elements
from orchestrator.jepa.objectives import (
    BatchStatisticObjective,
    ClipSets,
    build_objective,
    randomly_initialized_teacher,
)
from orchestrator.job import TrainJob
from tests.support.estimates import planned_job, random_inputs

CONV = "model.encoder={kind: conv, dim: 32, width: 8, blocks: 2}"

# -- FLOPs -----------------------------------------------------------------------------------


MASKED = "masks: [{blocks: 3}, {kind: future, targets: 0.5}]"
TAUGHT = [
    ("objective={kind: vjepa2, " + MASKED + "}",),
    ("objective={kind: vjepa21, context_ramp: [0, 9], " + MASKED + "}",),
    ("objective={kind: vjepa21, context_ramp: [0, 9], " + MASKED + "}", "model.levels=[1, 2, 3]"),
]


@pytest.mark.parametrize("overrides", TAUGHT)
def test_flops_are_those_that_torch_counts(overrides: tuple[str, ...]) -> None:
    job = planned_job(*overrides)
    objective, (video, masks) = build_objective(job), random_inputs(job, 4)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH):
        with counter:
            targets = objective.targets(objective.encoder, video)
        teacher = counter.get_total_flops()
        with counter:
            loss = objective(video, masks, targets).loss.sum()
        forward = counter.get_total_flops()
        with counter:
            loss.backward()
        backward = counter.get_total_flops()
    planned = estimate_job(job).flops
    assert planned is not None
    assert planned.teacher_forward == teacher
    assert planned.encoder_forward + planned.predictor_forward == forward
    assert planned.encoder_backward + planned.predictor_backward == backward
    assert planned.total == teacher + forward + backward


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("encoder", ["model.encoder.attention=moment", CONV])
def test_a_causal_job_costs_what_torch_counts(encoder: str, checkpointing: bool) -> None:
    job = planned_job("objective={kind: causal, horizons: 2}", encoder)
    objective, (video, _) = build_objective(job), random_inputs(job, 4)
    objective.set_activation_checkpointing(checkpointing)
    planned = estimate_job(job)
    assert planned.parameters is not None
    assert planned.flops is not None
    assert planned.parameters.trained == sum(p.numel() for p in objective.parameters())
    assert planned.parameters.teacher == sum(p.numel() for p in objective.encoder.parameters())
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        targets = objective.targets(objective.encoder, video)
        objective(video, [], targets).loss.sum().backward()
    again = planned.flops.recomputed if checkpointing else 0.0
    assert planned.flops.total + again == counter.get_total_flops()


OTHERS = [
    "{kind: lejepa, slices: 8, statistic_clips: 2}",
    "{kind: lejepa, slices: 8, masks: [{blocks: 3}, {kind: future, targets: 0.5}]}",
    "{kind: pixels, masks: [{blocks: 3}]}",
    "{kind: lewm, slices: 8, hidden: 40, statistic_clips: 2}",
    "{kind: supervised, classes: [drop, ramp, wall]}",
]


@pytest.mark.parametrize("text", OTHERS)
def test_objectives_without_a_teacher_cost_what_torch_counts(text: str) -> None:
    attention = "moment" if "lewm" in text else "clip"
    job = planned_job(f"objective={text}", f"model.encoder.attention={attention}")
    _check_without_a_teacher(job, text)


@pytest.mark.parametrize("text", [OTHERS[3], OTHERS[4]])
def test_a_convolutional_encoder_costs_what_torch_counts(text: str) -> None:
    _check_without_a_teacher(planned_job(f"objective={text}", CONV), text)


def _check_without_a_teacher(job: TrainJob, text: str) -> None:
    objective, (video, masks) = build_objective(job), random_inputs(job, 4)
    planned = estimate_job(job)
    encoder = sum(p.numel() for p in objective.encoder.parameters())
    sizes = [p.numel() for p in objective.parameters()]
    assert persistent_elements(job) == sum(size for size in sizes if size <= 100_000)
    assert planned.parameters is not None
    assert planned.parameters.encoder == encoder
    assert planned.flops is not None
    assert planned.parameters.trained == sum(p.numel() for p in objective.parameters())
    assert planned.parameters.teacher == 0
    assert planned.checkpoint_bytes == 12 * planned.parameters.trained
    targets: Any = None
    if isinstance(objective, BatchStatisticObjective):
        targets = ClipSets.single_set(video)
        sets = 4 // objective.statistic_clips
        targets.set_index = torch.arange(4) // objective.statistic_clips
        targets.mean_weight = (
            torch.eye(sets)[targets.set_index].T.contiguous() / objective.statistic_clips
        )
        targets.clips_per_set = torch.full((sets,), float(objective.statistic_clips))
    elif "supervised" in text:
        targets = torch.tensor([0, 1, 2, 1])
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        objective(video, masks, targets).loss.sum().backward()
    assert planned.flops.total == counter.get_total_flops()
    assert planned.flops.first_pass == 0


def test_dynamics_cost_what_torch_counts() -> None:
    masks = "masks: [{blocks: 2, targets: 0.2}]"
    job = planned_job(
        f"objective={{kind: dynamics, {masks}}}", "model.encoder={kind: codes, dim: 20}"
    )
    objective, codes, (drawn, masks_of) = (
        build_objective(job),
        randomly_initialized_teacher(job),
        random_inputs(job, 4),
    )
    assert codes is not None
    counter = FlopCounterMode(display=False)
    with counter:
        targets = objective.targets(codes, drawn)
        objective(drawn, masks_of, targets).loss.sum().backward()
    planned, sizes = estimate_job(job), [p.numel() for p in objective.parameters()]
    assert planned.flops is not None
    assert planned.parameters is not None
    assert planned.flops.total == counter.get_total_flops()
    assert planned.parameters.trained == planned.parameters.predictor == sum(sizes)
    assert planned.parameters.teacher == sum(p.numel() for p in codes.parameters())
    assert persistent_elements(job) == sum(size for size in sizes if size <= 100_000)
    assert planned.checkpoint_bytes == 12 * sum(sizes)


def test_a_frozen_teacher_costs_its_own_size_and_no_training() -> None:
    teacher = "{dim: 48, depth: 5, heads: 4}"
    job = planned_job(f"objective={{kind: frozen, teacher: t, encoder: {teacher}}}")
    objective, (video, masks) = build_objective(job), random_inputs(job, 4)
    fixed = randomly_initialized_teacher(job)
    assert fixed is not None
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        targets = objective.targets(fixed, video)
        objective(video, masks, targets).loss.sum().backward()
    planned, size = estimate_job(job), sum(p.numel() for p in fixed.parameters())
    assert planned.flops is not None
    assert planned.parameters is not None
    assert planned.flops.total == counter.get_total_flops()
    assert planned.parameters.teacher == size
    assert planned.parameters.trained == sum(p.numel() for p in objective.parameters())
    assert planned.checkpoint_bytes == 12 * planned.parameters.trained
    assert {memory.teacher for memory in planned.memory} == {4 * size}
    # Before the teacher was read nothing of it is made up.
    assert estimate_job(planned_job("objective={kind: frozen, teacher: t}")).flops is None


def test_accumulating_a_statistic_takes_a_first_pass() -> None:
    accumulating = estimate_job(
        planned_job("objective={kind: lejepa}", "scale.micro_batch=2")
    ).flops
    teacher = estimate_job(planned_job()).flops
    assert accumulating is not None
    assert teacher is not None
    assert accumulating.first_pass == teacher.teacher_forward


def test_recomputation_is_what_checkpointing_adds() -> None:
    job = planned_job()
    video, masks = random_inputs(job, 4)
    totals = []
    for on in (False, True):
        objective = build_objective(job)
        objective.set_activation_checkpointing(on)
        targets = objective.targets(objective.encoder, video)
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter:
            objective(video, masks, targets).loss.sum().backward()
        totals.append(counter.get_total_flops())
    planned = estimate_job(job).flops
    assert planned is not None
    assert planned.recomputed == totals[1] - totals[0]


def test_the_teacher_takes_half_of_the_published_giant() -> None:
    """V-JEPA 2's ViT-g at 16 frames, 256 pixels: the teacher's forward is 52% of the arithmetic."""
    job = planned_job(
        "model.encoder=vit-giant", "model.patch=16", "data.size=256", "data.frames=16",
        "model.predictor.depth=12", "model.predictor.dim=384", "model.predictor.heads=12",
    )  # fmt: skip
    planned = estimate_job(job).flops
    assert planned is not None
    assert planned.teacher_forward / planned.total == pytest.approx(0.52, abs=0.01)
