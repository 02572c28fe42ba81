"""The plan's figures against the built model, torch's own counters and plain arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import orchestrator
import orchestrator.estimate
from orchestrator.errors import RequestError
from orchestrator.estimate import BatchSizes, estimate_job, find_gpu, peak_flops
from orchestrator.estimate.activations import activations
from orchestrator.estimate.input_cost import clips_named_in_uris
from orchestrator.estimate.zero3_persistent import persistent_elements
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import TrainJob
from tests.support.estimates import planned_job, random_inputs

# -- batch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 5, 7, 64])
@pytest.mark.parametrize(("global_batch", "micro"), [(1, 16), (32, 16), (33, 4), (3072, 24)])
def test_every_world_size_trains_the_same_global_batch(
    world: int, global_batch: int, micro: int
) -> None:
    job = planned_job(f"scale.global_batch={global_batch}", f"scale.micro_batch={micro}")
    batch = BatchSizes.from_scale(job.scale, world)
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
    job = planned_job(*overrides)
    with torch.device("meta"):
        objective = build_objective(job)
    counted = estimate_job(job).parameters
    assert counted is not None
    encoder = sum(p.numel() for p in objective.encoder.parameters())
    assert counted.encoder == counted.teacher == encoder
    trained = [p.numel() for p in objective.parameters() if p.requires_grad]
    assert counted.trained == sum(trained)
    assert persistent_elements(job) == sum(size for size in trained if size <= 100_000)


def test_masks_have_the_planned_number_of_tokens() -> None:
    job = planned_job("objective.masks=[{blocks: 3}, {kind: future, targets: 0.5}]")
    _, masks = random_inputs(job, 2)
    planned = estimate_job(job).tokens
    assert planned.clip == 4 * 4 * 4
    assert planned.masks == tuple((c.shape[1], t.shape[1]) for c, t in masks)


# -- memory ----------------------------------------------------------------------------------


DENSE = ("objective={kind: vjepa21, context_ramp: [0, 9]}", "model.levels=[2, 4, 6, 8]")


@pytest.mark.parametrize("objective", [(), DENSE])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_about_what_autograd_keeps(
    checkpointing: bool, objective: tuple[str, ...]
) -> None:
    job = planned_job(
        f"scale.activation_checkpointing={str(checkpointing).lower()}",
        "model.encoder.depth=8", "model.predictor.depth=4", "data.size=64", *objective,
    )  # fmt: skip
    built, (video, masks) = build_objective(job), random_inputs(job, 2)
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
    planned = 2 * activations(job, 4).after_forward
    held = sum(kept.values()) + video.nbytes + video.numel() + targets.nbytes
    if checkpointing:
        # One block at a time is whole again in the backward pass, which the plan counts too.
        assert 0.5 * planned < held < 1.1 * planned
    else:
        assert held == pytest.approx(planned, rel=0.15)


def test_sharding_divides_what_it_shards() -> None:
    """Stage 1 in bf16 over 8 ranks, by the table of ZeRO: 2 + 4 + 12/8 bytes a parameter."""
    result = estimate_job(
        planned_job("scale.precision=bf16", "scale.workers=8", "scale.global_batch=64")
    )
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
    plain, moved = (
        estimate_job(planned_job(*options)),
        estimate_job(planned_job(*options, "scale.offload=true")),
    )
    for stage in (1, 2, 3):
        here, there = plain.memory[stage], moved.memory[stage]
        assert there.optimizer == 0
        assert there.host >= here.optimizer + 4 * plain.parameters.teacher / 4  # type: ignore[union-attr]
        assert there.device < here.device
    assert moved.memory[0].host == 0


def big(*overrides: str) -> TrainJob:
    return planned_job(
        "model.encoder=vit-giant", "model.patch=16", "data.size=256", "data.frames=16",
        "scale.precision=bf16", "scale.workers=16", "scale.global_batch=384",
        "scale.micro_batch=24", *overrides,
    )  # fmt: skip


def test_a_recommendation_fits_and_changes_little() -> None:
    roomy = estimate_job(big(), gpu="h200").recommended
    assert roomy is not None
    assert roomy.to_overrides(big()) == []
    for memory in ("24", "12", "8"):
        tight = estimate_job(big(), gpu=memory)
        assert tight.recommended is not None
        changes = tight.recommended.to_overrides(big())
        assert "scale.activation_checkpointing=true" in changes
        # The overrides are ones that `run` takes, and with them the job fits as it stands.
        changed = estimate_job(big(*changes), gpu=memory)
        assert changed.recommended is not None
        assert changed.recommended.to_overrides(big(*changes)) == []
    assert estimate_job(big(), gpu="1").recommended is None


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
    result = estimate_job(planned_job("scale.global_batch=50"), step_s=2.0)
    assert result.feed.steps_per_epoch == 20
    assert result.feed.epochs == 5
    assert result.clips_per_s == pytest.approx(26, abs=1)
    # 2 s clips: a core decodes 70 of them a second.
    assert (result.decode_cores, result.feed.cores_for(1000)) == (1, 15)
    assert estimate_job(planned_job(), clips=8).feed.steps_per_epoch == 2


def test_parts_of_ones_own_have_no_made_up_cost() -> None:
    own = {"kind": "tests.support.own_objective:PlainObjective"}
    result = estimate_job(planned_job(objective=own), gpu="h200")
    assert (result.parameters, result.flops, result.memory) == (None, None, ())
    assert result.step_flops is None
    assert result.to_dict()["batch"]["global_batch"] == 4


def test_the_plan_is_plain_data_and_reaches_the_package() -> None:
    job = planned_job()
    data = estimate_job(job, gpu="h200").to_dict()
    assert json.loads(json.dumps(data))["batch"]["padded"] == 4
    assert orchestrator.plan(job).to_dict() == orchestrator.estimate.estimate_job(job).to_dict()


def test_a_plan_needs_no_heavy_library() -> None:
    code = (
        "import sys; from orchestrator import load_job, plan; "
        "print(plan(load_job('jobs/physics/quick.yaml')).flops.total, "
        "sorted({'torch', 'ray', 'mlflow', 'numpy', 'pyarrow'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" []\n")


@pytest.mark.parametrize(
    ("source", "clips"),
    [
        ("physics://mixed?clips=24&size=64", 24),
        ("videos?clips=24", None),
        ("/data/what?clips=24", None),
        ("videos", None),
    ],
)
def test_the_name_of_a_folder_says_nothing_of_its_clips(source: str, clips: int | None) -> None:
    assert clips_named_in_uris(planned_job(f"data.source={source}")) == clips
