"""V-JEPA 2 against references that share no line with it, on drawn shapes.

The seeds are fixed; nightly tests draw further ones from `--fuzz`. A failure's message begins with
the seed of its draw.
"""

from __future__ import annotations

import copy
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from orchestrator.jepa.interop.import_model import import_model
from orchestrator.jepa.interop.imported_model import ImportOverrides
from orchestrator.jepa.masks import MultiBlockSampler, truncate_to_minimum
from orchestrator.jepa.model_files import WorldModel, load_folder
from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.objectives.base import gather_tokens
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.jepa.rope import channels_per_axis, rotary_for_tokens, rotate
from orchestrator.job import MultiBlock
from orchestrator.job.config.masks import VJEPA2_MASKS
from orchestrator.job.config.model import Rope
from orchestrator.randomness import generator
from orchestrator.training.engine.optimizer import apply_schedule, build_optimizer

SEEDS = [0, 3, 9]

fuzzed = pytest.mark.parametrize("number", range(60))

VIT_L: dict[str, Any] = {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 16}


def drawn_shape(draw: random.Random) -> dict[str, Any]:
    """A small VJEPA2Config; widths of a head from the least to one with channels left over."""
    heads, narrow_heads = draw.choice([1, 2, 3, 4]), draw.choice([1, 2, 3])
    return {
        "patch_size": draw.choice([4, 8]),
        "crop_size": 8 * draw.choice([2, 3, 4, 5]),
        "tubelet_size": 2,
        "frames_per_clip": 2 * draw.choice([1, 2, 3, 5]),
        "hidden_size": heads * draw.choice([6, 8, 16, 24]),
        "num_attention_heads": heads,
        "num_hidden_layers": draw.choice([1, 2, 3]),
        "mlp_ratio": draw.choice([2.0, 4.0]),
        "pred_hidden_size": narrow_heads * draw.choice([6, 12, 16]),
        "pred_num_attention_heads": narrow_heads,
        "pred_num_hidden_layers": draw.choice([1, 2]),
        "pred_num_mask_tokens": draw.choice([2, 3, 10]),
    }


def theirs(shape: dict[str, Any], seed: int) -> transformers.VJEPA2Model:
    """Hugging Face's model with weights that hide nothing: published ones begin with zeros."""
    torch.manual_seed(seed)
    model = transformers.VJEPA2Model(transformers.VJEPA2Config(**shape)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else 0.1)
    return model


def some_ids(tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Context and target ids of two clips, [2, n] each."""
    rng = torch.Generator().manual_seed(seed)
    cut = max(1, tokens // 3)
    rows = torch.stack([torch.randperm(tokens, generator=rng) for _ in range(2)])
    return rows[:, :cut], rows[:, cut:]


@torch.no_grad()
def compare(model: transformers.VJEPA2Model, ours: WorldModel, seed: int, where: object) -> None:
    """Encoder's and predictor's outputs of a drawn clip, to 1e-5 of their size."""
    config = model.config
    torch.manual_seed(seed)
    video = torch.randn(2, 3, config.frames_per_clip, config.crop_size, config.crop_size)
    grid = ours.clip.grid
    context, target = some_ids(math.prod(grid), seed)
    wanted = model(
        pixel_values_videos=video.transpose(1, 2), context_mask=[context], target_mask=[target]
    )
    features = ours.encoder(video)
    largest = float(wanted.last_hidden_state.abs().max())
    assert (features - wanted.last_hidden_state).abs().max() < 1e-5 * max(1, largest), where
    assert ours.predictor is not None
    # Their predictor always asks with the second mask token.
    predicted = ours.predictor(gather_tokens(features, context), context, target, 1)
    answer = wanted.predictor_output.last_hidden_state
    assert (predicted - answer).abs().max() < 1e-5 * max(1, float(answer.abs().max())), where


def brought_in(model: transformers.VJEPA2Model, folder: Path) -> WorldModel:
    model.save_pretrained(folder / "theirs")
    import_model(folder / "theirs", folder / "ours", ImportOverrides())
    return load_folder(folder / "ours")


def check_small_shape(seed: int, folder: Path) -> None:
    shape = drawn_shape(random.Random(seed))
    model = theirs(shape, seed)
    compare(model, brought_in(model, folder), seed, (seed, shape))


@pytest.mark.parametrize("seed", SEEDS)
def test_small_shapes_equal_transformers(seed: int, tmp_path: Path) -> None:
    check_small_shape(seed, tmp_path)


@pytest.mark.nightly
@fuzzed
def test_any_small_shape_equals_transformers(number: int, fuzz_seed: int, tmp_path: Path) -> None:
    check_small_shape(fuzz_seed + number, tmp_path)


def test_the_width_of_vit_large_equals_transformers(tmp_path: Path) -> None:
    seed = SEEDS[0]
    clip = {"crop_size": 16 * (2 + seed % 3), "frames_per_clip": 2 * (1 + seed % 4)}
    shape = {**VIT_L, **clip, "num_hidden_layers": 1, "pred_num_hidden_layers": 1}
    model = theirs(shape, seed)
    compare(model, brought_in(model, tmp_path), seed, (seed, shape))


@pytest.mark.nightly
@pytest.mark.parametrize(("frames", "size"), [(16, 64), (4, 128), (8, 256)])
def test_the_whole_of_vit_large_equals_transformers(frames: int, size: int, tmp_path: Path) -> None:
    torch.manual_seed(SEEDS[0])
    shape = {**VIT_L, "crop_size": size, "frames_per_clip": frames}
    model = transformers.VJEPA2Model(transformers.VJEPA2Config(**shape)).eval()
    torch.nn.init.normal_(model.predictor.embeddings.mask_tokens, std=0.02)
    ours = brought_in(model, tmp_path)
    assert ours.config.model.encoder.depth == 24  # type: ignore[union-attr]
    compare(model, ours, SEEDS[0], SEEDS[0])


def as_complex(x: Tensor, angles: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The textbook's rotation, float64: each pair of channels is a complex number."""
    out = x.double().numpy().copy()
    pairs = out.view(np.complex128)
    width = len(angles[0])
    for axis, angle in enumerate(angles):
        pairs[..., axis * width : (axis + 1) * width] *= np.exp(1j * angle)
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_paired_rotation_is_the_textbooks_and_tiled_is_the_published(seed: int) -> None:
    check_rotation(seed)


@pytest.mark.nightly
@fuzzed
def test_any_rotation_is_the_textbooks_or_the_published(number: int, fuzz_seed: int) -> None:
    check_rotation(fuzz_seed + number)


def check_rotation(seed: int) -> None:
    draw = random.Random(seed)
    grid = (draw.randint(1, 6), draw.randint(1, 9), draw.randint(1, 9))
    head = 2 * draw.randint(3, 40)
    place = tuple(draw.randrange(n) for n in grid)
    ids = torch.tensor([[(place[0] * grid[1] + place[1]) * grid[2] + place[2]]])
    torch.manual_seed(seed)
    qk, width = torch.randn(1, 1, 2, 1, head), channels_per_axis(head)
    where = (seed, grid, head, place)

    rates = 10000.0 ** -(np.arange(width // 2) / (width // 2))
    wanted = as_complex(qk, [p * rates for p in place])
    paired = rotate(qk, rotary_for_tokens(grid, ids, head, qk, "paired")).numpy()
    assert np.abs(paired - wanted).max() < 1e-5, where

    tiled = rotate(qk, rotary_for_tokens(grid, ids, head, qk, "tiled"))
    for axis, position in enumerate(place):
        part = slice(axis * width, (axis + 1) * width)
        x = qk[..., 0, :, part]  # [B, n, heads, w]; theirs is [B, heads, n, w]
        theirs_at = transformers.models.vjepa2.modeling_vjepa2.rotate_queries_or_keys(
            x.transpose(1, 2), torch.full((1, 1, 1), float(position))
        )
        assert (tiled[..., 0, :, part].transpose(1, 2) - theirs_at).abs().max() < 1e-5, where
    assert torch.equal(tiled[..., 3 * width :], qk[..., 3 * width :]), where


def corrected(x: Tensor, pos: Tensor) -> Tensor:
    """Hugging Face's rotation of one axis as V-JEPA 2.1 corrects it, by complex numbers."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** -(torch.arange(half) / half)
    turn = torch.polar(torch.ones(()), pos[..., None] * rates)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (half, 2))) * turn).flatten(-2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_paired_model_equals_transformers_with_its_rotation_corrected(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_paired_model(seed, tmp_path, monkeypatch)


@pytest.mark.nightly
@fuzzed
def test_any_paired_model_equals_transformers_with_its_rotation_corrected(
    number: int, fuzz_seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_paired_model(fuzz_seed + number, tmp_path, monkeypatch)


def check_paired_model(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = drawn_shape(random.Random(seed)) | {"crop_size": 32, "frames_per_clip": 6}
    model = theirs(shape, seed)
    tiled = brought_in(model, tmp_path)
    paired = load_as(tmp_path / "ours", "paired")
    video = torch.zeros(1, 6, 32, 32, 3, dtype=torch.uint8).random_(0, 255)
    monkeypatch.setattr(f"{type(model).__module__}.rotate_queries_or_keys", corrected)
    compare(model, paired, seed, (seed, shape))
    if shape["hidden_size"] // shape["num_attention_heads"] >= 12:  # two rates on an axis
        # Rounding differs by up to 2e-6, the rotations of 250 drawn models by 2e-4 at least.
        apart = float((paired.encode(video) - tiled.encode(video)).abs().max())
        assert apart > 2e-5, (seed, apart)


def load_as(folder: Path, rope: Rope) -> WorldModel:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"rope": "tiled"', f'"rope": "{rope}"'))
    return load_folder(folder)


GRID = (8, 16, 16)


def naive_batch(mask: MultiBlock, clips: int, draw: random.Random) -> tuple[int, int]:
    """The smallest counts of a batch by the original's sampler, block by block on sets.

    Every clip draws its own size of block, as ours must: no clip may depend on its batch.
    """
    duration, height, width = GRID
    everything = {(z, y, x) for z in range(duration) for y in range(height) for x in range(width)}
    left, hidden = [], []
    for _ in range(clips):
        aspect = draw.uniform(*mask.aspect)
        area = int(height * width * mask.spatial)
        h = min(height, round(math.sqrt(area * aspect)))
        w = min(width, round(math.sqrt(area / aspect)))
        gone: set[tuple[int, int, int]] = set()
        for _ in range(mask.blocks):
            top, side = draw.randint(0, height - h), draw.randint(0, width - w)
            gone |= {
                (z, y, x)
                for z in range(duration)
                for y in range(top, top + h)
                for x in range(side, side + w)
            }
        left.append(len(everything - gone))
        hidden.append(len(gone))
    return min(left), min(hidden)


@pytest.mark.parametrize("published", VJEPA2_MASKS)
def test_truncated_batches_are_as_large_as_the_originals(published: MultiBlock) -> None:
    seed, batches, clips = SEEDS[0], 12, 24
    sampler = MultiBlockSampler(published.model_copy(update={"truncate": True}), GRID)
    draw = random.Random(seed)
    ours, wanted = [], []
    for batch in range(batches):
        drawn = [sampler(generator(seed, batch * clips + i, "masks")) for i in range(clips)]
        context, target = truncate_to_minimum(drawn)[0]
        ours.append((len(context), len(target)))
        wanted.append(naive_batch(published, clips, draw))
    for mine, their in zip(np.transpose(ours), np.transpose(wanted), strict=True):
        spread = math.sqrt((mine.var() + their.var()) / batches) + 1.0
        assert abs(mine.mean() - their.mean()) < 4 * spread, (seed, mine, their)


def naive_mean_loss(objective: Any, teacher: Any, x: Tensor, masks: Any) -> Tensor:
    """Equation 1 over clips, masks and tokens, one by one."""
    total = x.new_zeros(())
    for clip in range(len(x)):
        one = x[clip : clip + 1]
        features = teacher(one)[0].detach()
        for i, (context, target) in enumerate(masks):
            ids, asked = context[clip : clip + 1], target[clip : clip + 1]
            said = objective.predictor(objective.encoder(one, ids), ids, asked, i)[0]
            for row, token in zip(said, asked[0].tolist(), strict=True):
                wanted = features[token] - features[token].mean()
                wanted = wanted / (wanted.square().mean() + 1e-5).sqrt()
                total = total + (row - wanted).abs().mean() / (len(said) * len(masks) * len(x))
    return total


def test_one_step_of_the_optimizer_against_float64(
    make_job: Any, masks_of: Any, video: Tensor
) -> None:
    seed = SEEDS[0]
    job = make_job(f"seed={seed}", "optim.lr=1e-3", "optim.weight_decay=0.1", "optim.eps=1e-4")
    objective = build_objective(job)
    masks, x = masks_of(job, 2), normalise(video, torch.float32)
    torch.manual_seed(seed)
    teacher = copy.deepcopy(objective.encoder).requires_grad_(False)
    for parameter in teacher.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))

    exact, exact_teacher = copy.deepcopy(objective).double(), copy.deepcopy(teacher).double()
    reference = naive_mean_loss(exact, exact_teacher, x.double(), masks)
    reference.backward()

    optimizer = build_optimizer(
        objective.named_parameters(), job.optim, ema_module="encoder", zero_stage=0
    )
    rate, decay = apply_schedule(optimizer, job.optim, 0)
    loss = objective(x, masks, objective.targets(teacher, x)).loss.mean()
    loss.backward()
    optimizer.step()
    assert float(loss.detach()) == pytest.approx(float(reference.detach()), rel=1e-6), seed
    for (name, ours), before in zip(objective.named_parameters(), exact.parameters(), strict=True):
        assert before.grad is not None, name
        # The first step of AdamW: both moments, corrected, are the gradient's own.
        wanted = before * (1 - rate * decay) if before.ndim > 1 else before.clone()
        wanted = wanted - rate * before.grad / (before.grad.abs() + job.optim.eps)
        off = (ours.double() - wanted).abs().max() / rate
        assert off < 5e-3, (seed, name, float(off))
    assert F.l1_loss(objective.predictor.mask_tokens, exact.predictor.mask_tokens.float()) > 0
