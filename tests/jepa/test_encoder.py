from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.jepa.encoders.vision_transformer import (
    VisionTransformer,
    build_encoder,
    encoder_width,
)
from orchestrator.jepa.pixel_normalization import IMAGENET_MEAN, IMAGENET_STD, normalise
from orchestrator.jepa.predictors.masked import MaskedPredictor
from orchestrator.jepa.rope import rotary_for_tokens, rotate
from orchestrator.jepa.transformer import Block


def small_encoder(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"size": 32, "frames": 8, "patch": 8, "tubelet": 2, "dim": 48}
    encoder = VisionTransformer(**(shape | {"depth": 2, "heads": 2} | changes))
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def take(x: Tensor, ids: Tensor) -> Tensor:
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))


@torch.no_grad()
def test_kept_tokens_are_chosen_before_the_blocks() -> None:
    encoder = small_encoder()
    video = torch.randn(2, 3, 8, 32, 32)
    keep = torch.stack([torch.randperm(64)[:20] for _ in range(2)])
    everything = torch.arange(64).expand(2, -1)
    full, kept = encoder(video), encoder(video, keep)

    assert torch.allclose(encoder(video, everything), full, atol=1e-5)
    assert torch.allclose(
        small_encoder(depth=0)(video, keep), take(small_encoder(depth=0)(video), keep)
    )
    # With attention, a token that is not kept is not seen ...
    assert not torch.allclose(kept, take(full, keep), atol=1e-2)
    blind = video.clone()
    for b in range(2):
        for token in set(range(64)) - set(keep[b].tolist()):
            t, y, x = token // 16, token // 4 % 4, token % 4
            blind[b, :, 2 * t : 2 * t + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 99.0
    assert torch.equal(encoder(blind, keep), kept)
    # ... and the order in which tokens are named only orders the answer.
    assert torch.allclose(encoder(video, keep.flip(1)), kept.flip(1), atol=1e-5)


@torch.no_grad()
def test_scores_depend_on_distance_only_where_an_axis_has_one_frequency() -> None:
    # A head of 6 gives each axis one pair of channels, where V-JEPA 2's layout of frequencies
    # and the textbook's are the same rotation: the score is a function of the distance.
    grid = (4, 5, 6)
    qk = torch.randn(1, 1, 2, 1, 6)

    def score(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        ids = [(t * 5 + y) * 6 + x for t, y, x in (a, b)]
        q, k = (
            rotate(qk, rotary_for_tokens(grid, torch.tensor([[i]]), 6, qk))[0, 0, side, 0]
            for side, i in enumerate(ids)
        )
        return float(q @ k)

    here = score((0, 1, 2), (1, 0, 4))
    assert score((2, 4, 3), (3, 3, 5)) == pytest.approx(here, abs=1e-5)
    assert score((0, 1, 2), (2, 0, 4)) != pytest.approx(here, abs=1e-3)


@torch.no_grad()
def test_a_moved_scene_has_the_same_features_when_positions_are_relative() -> None:
    encoder = small_encoder(dim=12, heads=2)
    clip, moved = torch.zeros(1, 3, 8, 32, 32), torch.zeros(1, 3, 8, 32, 32)
    scene = torch.randn(3, 4, 16, 16)
    clip[0, :, 0:4, 0:16, 8:24] = scene
    moved[0, :, 2:6, 16:32, 0:16] = scene
    at = [(t, y, x) for t in range(2) for y in range(2) for x in range(2)]
    keep = torch.tensor([[(t * 4 + y) * 4 + x + 1 for t, y, x in at]])
    keep_moved = torch.tensor([[((t + 1) * 4 + y + 2) * 4 + x for t, y, x in at]])
    assert torch.allclose(encoder(clip, keep), encoder(moved, keep_moved), atol=1e-5)


def test_published_initialisation() -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(size=32, frames=4, patch=8, tubelet=2, dim=192, depth=4, heads=3)
    predictor = MaskedPredictor(encoder_dim=192, grid=(2, 4, 4), dim=96, depth=3, heads=3)
    for stack in (encoder, predictor):
        for layer, block in enumerate(stack.blocks, start=1):
            assert isinstance(block, Block)
            rescaled = 0.02 / math.sqrt(2 * layer)
            assert float(block.attn.qkv.weight.detach().std()) == pytest.approx(0.02, rel=0.03)
            assert float(block.mlp.fc1.weight.detach().std()) == pytest.approx(0.02, rel=0.03)
            assert float(block.attn.proj.weight.detach().std()) == pytest.approx(rescaled, rel=0.03)
            assert float(block.mlp.fc2.weight.detach().std()) == pytest.approx(rescaled, rel=0.03)
            assert not block.attn.qkv.bias.any()
            assert block.norm1.eps == 1e-6
    assert float(encoder.patch_embed.proj.weight.detach().std()) == pytest.approx(0.02, rel=0.03)
    assert not predictor.mask_tokens.any()


def test_rotations_made_without_gradient_serve_training() -> None:
    with torch.inference_mode():
        small_encoder(size=40)(torch.randn(1, 3, 8, 40, 40))
    small_encoder(size=40)(torch.randn(1, 3, 8, 40, 40)).sum().backward()


@torch.no_grad()
def test_bfloat16_stays_close() -> None:
    encoder = small_encoder()
    video = torch.randn(1, 3, 8, 32, 32)
    wanted = encoder(video)
    with torch.autocast("cpu", torch.bfloat16):
        cast = encoder(video).float()
    whole = encoder.bfloat16()(video.bfloat16()).float()
    for got in (cast, whole):
        assert torch.cosine_similarity(got, wanted, dim=-1).min() > 0.995


def test_normalise_is_the_formula_at_every_pixel() -> None:
    video = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    mean, std = (
        torch.tensor(IMAGENET_MEAN, dtype=torch.float64),
        torch.tensor(IMAGENET_STD, dtype=torch.float64),
    )
    wanted = ((video.double() / 255 - mean) / std).permute(0, 4, 1, 2, 3)
    got = normalise(video, torch.float32)
    assert got.shape == (2, 3, 3, 4, 5)
    assert (got - wanted).abs().max() < 1e-6
    # bf16 rounds the result once, not the pixel first: half a unit in the last of 8 places.
    assert (normalise(video, torch.bfloat16) - wanted).abs().max() <= 2.7 * 2**-8


CUSTOM = """
import torch
from pydantic import BaseModel

class Mean(torch.nn.Module):
    class Config(BaseModel):
        width: int = 10

    def __init__(self, config, *, size, frames, patch, tubelet):
        super().__init__()
        self.dim = config.width
        self.cut = (tubelet, patch, patch)
        self.lift = torch.nn.Linear(3, config.width)

    def forward(self, x, keep=None):
        tokens = torch.nn.functional.avg_pool3d(x, self.cut).flatten(2).transpose(1, 2)
        if keep is not None:
            tokens = tokens.gather(1, keep[..., None].expand(-1, -1, 3))
        return self.lift(tokens)

class Nameless(Mean):
    def __init__(self, config, **shape):
        super().__init__(config, **shape)
        self.dim = None
"""


@pytest.fixture
def custom(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine_encoders.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "mine_encoders"


def test_own_encoder_by_import_path(custom: str, make_job: Any) -> None:
    job = make_job(f"model.encoder={{kind: '{custom}:Mean', width: 14}}")
    encoder = build_encoder(job.model, size=32, frames=8)
    assert encoder_width(encoder) == 14
    assert encoder(torch.randn(2, 3, 8, 32, 32), None).shape == (2, 64, 14)

    with pytest.raises(RequestError, match="width"):
        make_job(f"model.encoder={{kind: '{custom}:Mean', width: wide}}")
    nameless = make_job(f"model.encoder={{kind: '{custom}:Nameless'}}")
    with pytest.raises(RequestError, match="'dim'"):
        encoder_width(build_encoder(nameless.model, size=32, frames=8))
