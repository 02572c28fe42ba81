"""The plan's figures against the built model, torch's own counters and plain arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from planned import a_job
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import orchestrator.plan
from orchestrator.errors import RequestError
from orchestrator.jepa.masks import build_masks
from orchestrator.jepa.objectives import Pool, PooledObjective, build_objective, untaught_teacher
from orchestrator.job import TrainJob
from orchestrator.job.base import CustomPart
from orchestrator.plan import BatchPlan, find_gpu, peak_flops, plan
from orchestrator.plan.activations import activations
from orchestrator.plan.persistent import persistent
from orchestrator.randomness import generator


def a_batch(job: TrainJob, clips: int) -> tuple[torch.Tensor, list[tuple[torch.Tensor, Any]]]:
    """Normalised video and masks of `clips` clips."""
    video = torch.randn(clips, 3, job.data.frames, job.data.size, job.data.size)
    masks = []
    for part, sampler in enumerate(build_masks(job)):
        drawn = [sampler(generator(0, i, "masks", part)) for i in range(clips)]
        context, target = ([torch.from_numpy(pair[k]) for pair in drawn] for k in (0, 1))
        masks.append((torch.stack(context), torch.stack(target)))
    return video, masks


# -- batch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 5, 7, 64])
@pytest.mark.parametrize(("global_batch", "micro"), [(1, 16), (32, 16), (33, 4), (3072, 24)])
def test_every_world_size_trains_the_same_global_batch(
    world: int, global_batch: int, micro: int
) -> None:
    job = a_job(f"scale.global_batch={global_batch}", f"scale.micro_batch={micro}")
    batch = BatchPlan.of(job.scale, world)
    assert batch.padded == world * batch.micro * batch.accum
    assert batch.padded - batch.padding == global_batch
    assert batch.micro <= micro
    # No micro-batch consists of padding alone, over all ranks.
    assert 0 <= batch.padding < world * batch.micro


# -- tokens and parameters -------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.encoder.mlp_ratio=3.3", "model.predictor.mlp_ratio=2.7", "model.tubelet=1"),
        ("objective.masks=[{kind: future, targets: 0.5}, {blocks: 2}, {blocks: 3}]",),
        ("model.encoder=vit-large", "model.patch=16", "data.size=256", "data.frames=16"),
        ("model.encoder=vit-giant", "model.predictor.depth=12", "model.predictor.dim=384"),
        ("model.encoder=vit-gigantic",),
        ("objective={kind: vjepa21, context_ramp: [0, 9]}", "model.levels=[1, 2, 3]"),
        ("objective={kind: vjepa21, context_ramp: [0, 9]}",),
    ],
)
def test_parameters_are_those_of_the_built_model(overrides: tuple[str, ...]) -> None:
    job = a_job(*overrides)
    with torch.device("meta"):
        objective = build_objective(job)
    counted = plan(job).parameters
    assert counted is not None
    encoder = sum(p.numel() for p in objective.encoder.parameters())
    assert counted.encoder == counted.teacher == encoder
    trained = [p.numel() for p in objective.parameters() if p.requires_grad]
    assert counted.trained == sum(trained)
    assert persistent(job) == sum(size for size in trained if size <= 100_000)


def test_masks_have_the_planned_number_of_tokens() -> None:
    job = a_job("objective.masks=[{blocks: 3}, {kind: future, targets: 0.5}]")
    _, masks = a_batch(job, 2)
    planned = plan(job).tokens
    assert planned.clip == 4 * 4 * 4
    assert planned.masks == tuple((c.shape[1], t.shape[1]) for c, t in masks)


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
    job = a_job(*overrides)
    objective, (video, masks) = build_objective(job), a_batch(job, 4)
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
    planned = plan(job).flops
    assert planned is not None
    assert planned.teacher_forward == teacher
    assert planned.encoder_forward + planned.predictor_forward == forward
    assert planned.encoder_backward + planned.predictor_backward == backward
    assert planned.total == teacher + forward + backward


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("encoder", ["model.encoder.attention=moment", CONV])
def test_a_causal_job_costs_what_torch_counts(encoder: str, checkpointing: bool) -> None:
    job = a_job("objective={kind: causal, horizons: 2}", encoder)
    objective, (video, _) = build_objective(job), a_batch(job, 4)
    objective.set_activation_checkpointing(checkpointing)
    planned = plan(job)
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
    job = a_job(f"objective={text}", f"model.encoder.attention={attention}")
    _check_without_a_teacher(job, text)


@pytest.mark.parametrize("text", [OTHERS[3], OTHERS[4]])
def test_a_convolutional_encoder_costs_what_torch_counts(text: str) -> None:
    _check_without_a_teacher(a_job(f"objective={text}", CONV), text)


def _check_without_a_teacher(job: TrainJob, text: str) -> None:
    objective, (video, masks) = build_objective(job), a_batch(job, 4)
    planned = plan(job)
    encoder = sum(p.numel() for p in objective.encoder.parameters())
    sizes = [p.numel() for p in objective.parameters()]
    assert persistent(job) == sum(size for size in sizes if size <= 100_000)
    assert planned.parameters is not None
    assert planned.parameters.encoder == encoder
    assert planned.flops is not None
    assert planned.parameters.trained == sum(p.numel() for p in objective.parameters())
    assert planned.parameters.teacher == 0
    assert planned.checkpoint_bytes == 12 * planned.parameters.trained
    targets: Any = None
    if isinstance(objective, PooledObjective):
        targets = Pool.alone(video)
        sets = 4 // objective.statistic_clips
        targets.member = torch.arange(4) // objective.statistic_clips
        targets.share = torch.eye(sets)[targets.member].T.contiguous() / objective.statistic_clips
        targets.clips = torch.full((sets,), float(objective.statistic_clips))
    elif "supervised" in text:
        targets = torch.tensor([0, 1, 2, 1])
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        objective(video, masks, targets).loss.sum().backward()
    assert planned.flops.total == counter.get_total_flops()
    assert planned.flops.first_pass == 0


def test_a_frozen_teacher_costs_its_own_size_and_no_training() -> None:
    teacher = "{dim: 48, depth: 5, heads: 4}"
    job = a_job(f"objective={{kind: frozen, teacher: t, encoder: {teacher}}}")
    objective, (video, masks) = build_objective(job), a_batch(job, 4)
    fixed = untaught_teacher(job)
    assert fixed is not None
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        targets = objective.targets(fixed, video)
        objective(video, masks, targets).loss.sum().backward()
    planned, size = plan(job), sum(p.numel() for p in fixed.parameters())
    assert planned.flops is not None
    assert planned.parameters is not None
    assert planned.flops.total == counter.get_total_flops()
    assert planned.parameters.teacher == size
    assert planned.parameters.trained == sum(p.numel() for p in objective.parameters())
    assert planned.checkpoint_bytes == 12 * planned.parameters.trained
    assert {memory.teacher for memory in planned.memory} == {4 * size}
    # Before the teacher was read nothing of it is made up.
    assert plan(a_job("objective={kind: frozen, teacher: t}")).flops is None


def test_accumulating_a_statistic_takes_a_first_pass() -> None:
    accumulating = plan(a_job("objective={kind: lejepa}", "scale.micro_batch=2")).flops
    teacher = plan(a_job()).flops
    assert accumulating is not None
    assert teacher is not None
    assert accumulating.first_pass == teacher.teacher_forward


def test_recomputation_is_what_checkpointing_adds() -> None:
    job = a_job()
    video, masks = a_batch(job, 4)
    totals = []
    for on in (False, True):
        objective = build_objective(job)
        objective.set_activation_checkpointing(on)
        targets = objective.targets(objective.encoder, video)
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter:
            objective(video, masks, targets).loss.sum().backward()
        totals.append(counter.get_total_flops())
    planned = plan(job).flops
    assert planned is not None
    assert planned.recomputed == totals[1] - totals[0]


def test_the_teacher_takes_half_of_the_published_giant() -> None:
    """V-JEPA 2's ViT-g at 16 frames, 256 pixels: the teacher's forward is 52% of the arithmetic."""
    job = a_job(
        "model.encoder=vit-giant", "model.patch=16", "data.size=256", "data.frames=16",
        "model.predictor.depth=12", "model.predictor.dim=384", "model.predictor.heads=12",
    )  # fmt: skip
    planned = plan(job).flops
    assert planned is not None
    assert planned.teacher_forward / planned.total == pytest.approx(0.52, abs=0.01)


# -- memory ----------------------------------------------------------------------------------


DENSE = ("objective={kind: vjepa21, context_ramp: [0, 9]}", "model.levels=[2, 4, 6, 8]")


@pytest.mark.parametrize("objective", [(), DENSE])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_about_what_autograd_keeps(
    checkpointing: bool, objective: tuple[str, ...]
) -> None:
    job = a_job(
        f"scale.activation_checkpointing={str(checkpointing).lower()}",
        "model.encoder.depth=8", "model.predictor.depth=4", "data.size=64", *objective,
    )  # fmt: skip
    built, (video, masks) = build_objective(job), a_batch(job, 2)
    built.set_activation_checkpointing(checkpointing)
    targets = built.targets(built.encoder, video)
    own = {p.untyped_storage().data_ptr() for p in built.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = built(video, masks, targets).loss.sum()
    assert loss.requires_grad
    planned = 2 * activations(job, plan(job).tokens, 4).whole
    held = sum(kept.values()) + video.nbytes + video.numel() + targets.nbytes
    if checkpointing:
        # One block at a time is whole again in the backward pass, which the plan counts too.
        assert 0.5 * planned < held < 1.1 * planned
    else:
        assert held == pytest.approx(planned, rel=0.15)


def test_sharding_divides_what_it_shards() -> None:
    """Stage 1 in bf16 over 8 ranks, by the table of ZeRO: 2 + 4 + 12/8 bytes a parameter."""
    result = plan(a_job("scale.precision=bf16", "scale.workers=8", "scale.global_batch=64"))
    assert result.parameters is not None
    p, e = result.parameters.trained, result.parameters.teacher
    stage_0, stage_1, stage_2, stage_3 = result.memory
    assert stage_1.parameters + stage_1.gradients + stage_1.optimizer == (2 + 4 + 12 / 8) * p
    assert stage_1.teacher == (2 + 4 / 8) * e
    assert stage_0.optimizer == 8 * p
    assert stage_0.teacher == (2 + 4) * e
    assert stage_3.optimizer == stage_2.optimizer == stage_1.optimizer
    assert {m.activations for m in result.memory} == {stage_0.activations}


def test_offload_moves_the_optimizer_to_the_host() -> None:
    options = ("scale.workers=4", "scale.global_batch=64")
    plain, moved = plan(a_job(*options)), plan(a_job(*options, "scale.offload=true"))
    for stage in (1, 2, 3):
        here, there = plain.memory[stage], moved.memory[stage]
        assert there.optimizer == 0
        assert there.host >= here.optimizer + 4 * plain.parameters.teacher / 4  # type: ignore[union-attr]
        assert there.device < here.device
    assert moved.memory[0].host == 0


def big(*overrides: str) -> TrainJob:
    return a_job(
        "model.encoder=vit-giant", "model.patch=16", "data.size=256", "data.frames=16",
        "scale.precision=bf16", "scale.workers=16", "scale.global_batch=384",
        "scale.micro_batch=24", *overrides,
    )  # fmt: skip


def test_a_recommendation_fits_and_changes_little() -> None:
    roomy = plan(big(), gpu="h200").recommended
    assert roomy is not None
    assert roomy.overrides(big()) == []
    for memory in ("24", "12", "8"):
        tight = plan(big(), gpu=memory)
        assert tight.recommended is not None
        changes = tight.recommended.overrides(big())
        assert "scale.activation_checkpointing=true" in changes
        # The overrides are ones that `run` takes, and with them the job fits as it stands.
        changed = plan(big(*changes), gpu=memory)
        assert changed.recommended is not None
        assert changed.recommended.overrides(big(*changes)) == []
    assert plan(big(), gpu="1").recommended is None


# -- hardware, data, the whole ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA B200", 2250),
    ],
)
def test_peaks_by_the_name_that_torch_gives(device: str, tera: float) -> None:
    assert peak_flops(device) == tera * 1e12


@pytest.mark.parametrize("device", ["NVIDIA GH200 480GB", "NVIDIA GB200", "Tesla T4", "cpu", ""])
def test_no_peak_is_claimed_where_none_is_known(device: str) -> None:
    assert peak_flops(device) is None


def test_a_gpu_that_is_not_known() -> None:
    with pytest.raises(RequestError, match="did you mean 'h200'"):
        find_gpu("h20")
    assert find_gpu("24").memory == 24 * 2**30
    assert find_gpu("A100-40GB").memory == 40 * 2**30


def test_epochs_and_decoding() -> None:
    result = plan(a_job("scale.global_batch=50"), step_s=2.0)
    assert result.feed.steps_per_epoch == 20
    assert result.feed.epochs == 5
    assert result.clips_per_s == pytest.approx(26, abs=1)
    # 2 s clips: a core decodes 70 of them a second.
    assert (result.decode_cores, result.feed.cores(1000)) == (1, 15)
    assert plan(a_job(), clips=8).feed.steps_per_epoch == 2


def test_parts_of_ones_own_have_no_made_up_cost() -> None:
    job = a_job()
    own = CustomPart(kind="mylab.parts:Loss")
    result = plan(job.model_copy(update={"objective": own}), gpu="h200")
    assert (result.parameters, result.flops, result.memory) == (None, None, ())
    assert result.step_flops is None
    assert result.to_dict()["batch"]["global_batch"] == 4


def test_the_plan_is_plain_data_and_reaches_the_package() -> None:
    job = a_job()
    data = plan(job, gpu="h200").to_dict()
    assert json.loads(json.dumps(data))["batch"]["padded"] == 4
    # The package and the function share a name; both ways of asking give the plan.
    from orchestrator import plan as promised

    assert promised(job).to_dict() == orchestrator.plan.plan(job).to_dict()


def test_a_plan_needs_no_heavy_library() -> None:
    code = (
        "import sys; from orchestrator import load_job, plan; "
        "print(plan(load_job('jobs/physics/quick.yaml')).flops.total, "
        "sorted({'torch', 'ray', 'mlflow', 'numpy', 'pyarrow'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" []\n")
