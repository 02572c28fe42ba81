"""Encoder and predictor against Hugging Face's V-JEPA 2, weights copied over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from orchestrator.jepa.encoders.vision_transformer import VisionTransformer
from orchestrator.jepa.predictors.masked import MaskedPredictor

SHAPES: dict[str, dict[str, int]] = {
    # A head of 16: three axes of 4 channels, 4 not rotated. A head of 24: all rotated.
    "8x32": {"frames": 8, "size": 32, "dim": 64, "heads": 4, "narrow": 48, "narrow_heads": 2},
    "4x48": {"frames": 4, "size": 48, "dim": 72, "heads": 3, "narrow": 32, "narrow_heads": 2},
}


def reference(shape: dict[str, int]) -> transformers.VJEPA2Model:
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        patch_size=8,
        crop_size=shape["size"],
        frames_per_clip=shape["frames"],
        tubelet_size=2,
        hidden_size=shape["dim"],
        num_attention_heads=shape["heads"],
        num_hidden_layers=3,
        pred_hidden_size=shape["narrow"],
        pred_num_attention_heads=shape["narrow_heads"],
        pred_num_hidden_layers=2,
        pred_num_mask_tokens=2,
    )
    model = transformers.VJEPA2Model(config).eval()
    for parameter in model.parameters():  # published initialisation has zeros that hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def stack_weights(theirs: Any, ours: str) -> dict[str, Tensor]:
    """Weights of a stack of blocks under the names of ours."""
    out: dict[str, Tensor] = {}
    for i, layer in enumerate(theirs.layer):
        state = layer.state_dict()
        here = f"{ours}blocks.{i}."
        for kind in ("weight", "bias"):
            parts = [state[f"attention.{name}.{kind}"] for name in ("query", "key", "value")]
            out[f"{here}attn.qkv.{kind}"] = torch.cat(parts)
            out[f"{here}attn.proj.{kind}"] = state[f"attention.proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"{here}{name}.{kind}"] = state[f"{name}.{kind}"]
    out |= {f"{ours}norm.{k}": v for k, v in theirs.layernorm.state_dict().items()}
    return out


def our_encoder(model: transformers.VJEPA2Model, shape: dict[str, int]) -> VisionTransformer:
    encoder = VisionTransformer(
        size=shape["size"],
        frames=shape["frames"],
        patch=8,
        tubelet=2,
        dim=shape["dim"],
        depth=3,
        heads=shape["heads"],
    )
    embed = model.encoder.embeddings.patch_embeddings.proj
    weights = stack_weights(model.encoder, "")
    weights["patch_embed.proj.weight"] = embed.weight.flatten(1)
    weights["patch_embed.proj.bias"] = embed.bias
    encoder.load_state_dict(weights)
    return encoder


def our_predictor(model: transformers.VJEPA2Model, shape: dict[str, int]) -> MaskedPredictor:
    predictor = MaskedPredictor(
        encoder_dim=shape["dim"],
        grid=(shape["frames"] // 2, shape["size"] // 8, shape["size"] // 8),
        dim=shape["narrow"],
        depth=2,
        heads=shape["narrow_heads"],
        mask_tokens=2,
    )
    theirs = model.predictor
    weights = stack_weights(theirs, "")
    weights["mask_tokens"] = theirs.embeddings.mask_tokens.flatten(1)
    for name, layer in (("embed", theirs.embeddings.predictor_embeddings), ("proj", theirs.proj)):
        weights |= {f"{name}.{k}": v for k, v in layer.state_dict().items()}
    predictor.load_state_dict(weights)
    return predictor


def some_tokens(tokens: int, count: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(tokens, generator=rng)[:count].sort().values for _ in range(2)]
    return torch.stack(rows)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_encoder_and_predictor_equal_transformers(name: str) -> None:
    shape = SHAPES[name]
    model = reference(shape)
    encoder, predictor = our_encoder(model, shape), our_predictor(model, shape)
    tokens = (shape["frames"] // 2) * (shape["size"] // 8) ** 2
    video = torch.randn(2, 3, shape["frames"], shape["size"], shape["size"])
    context, target = some_tokens(tokens, 11, 1), some_tokens(tokens, 17, 2)
    wanted = model(
        pixel_values_videos=video.transpose(1, 2), context_mask=[context], target_mask=[target]
    )

    features = encoder(video)
    assert (features - wanted.last_hidden_state).abs().max() < 1e-5

    # Their predictor takes the second mask token and sorts; ours need not.
    z = features.gather(1, context[..., None].expand(-1, -1, shape["dim"]))
    predicted = predictor(z, context, target, 1)
    theirs = wanted.predictor_output.last_hidden_state
    # Weights of std 0.3 give outputs of about 10: the bound is relative to that.
    assert (predicted - theirs).abs().max() < 1e-5 * max(1.0, float(theirs.abs().max()))

    order = torch.randperm(context.shape[1])
    shuffled = predictor(z[:, order], context[:, order], target, 1)
    assert (shuffled - predicted).abs().max() < 1e-5 * max(1.0, float(theirs.abs().max()))


@torch.no_grad()
def test_kept_tokens_equal_transformers_layers_at_their_positions() -> None:
    shape = SHAPES["8x32"]
    model = reference(shape)
    video = torch.randn(2, 3, 8, 32, 32)
    keep = some_tokens(64, 9, 3)
    x = model.encoder.embeddings(video.transpose(1, 2))
    x = x.gather(1, keep[..., None].expand(-1, -1, 64))
    for layer in model.encoder.layer:
        x = layer(x, keep)[0]
    wanted = model.encoder.layernorm(x)
    assert (our_encoder(model, shape)(video, keep) - wanted).abs().max() < 1e-5
