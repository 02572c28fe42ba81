"""The video encoder: a vision transformer over space-time patches (arXiv 2506.09985, 2.1), a
convolutional one (`jepa/encoders/convolutional.py`), or linear codes (`jepa/encoders/pca.py`).

An encoder of your own is named by its import path (`model.encoder.kind: package.module:Name`).
It is a class that follows `VideoEncoder`, with a pydantic model `Config` of its keys, and is
made by `Name(config, size=..., frames=..., patch=..., tubelet=...)`.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.jepa.encoders.convolutional import ConvolutionalEncoder
from orchestrator.jepa.encoders.patch_embed import PatchEmbed
from orchestrator.jepa.encoders.pca import PCAPatchEncoder
from orchestrator.jepa.rope import Grid, Rotation, rotary_for_tokens
from orchestrator.jepa.transformer import NORM_EPS, Transformer
from orchestrator.job import (
    ConvEncoderConfig,
    Model,
    PCAEncoderConfig,
    ViTConfig,
    component_config,
    import_component,
)
from orchestrator.job.config.model import Rope


class VideoEncoder(Protocol):
    """What an encoder must offer; it is an `nn.Module` as well."""

    dim: int
    """Width of a token."""

    def __call__(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised video [B, 3, T, H, W] -> tokens [B, N, dim], or [B, n, dim] with `keep`.

        `keep` [B, n] holds token ids (t * H + y) * W + x on the grid of T / tubelet, H / patch
        and W / patch. Tokens that are not kept must not influence the others.
        """


class VisionTransformer(Transformer):
    """V-JEPA 2's encoder: no class token, 3D rotary positions, pre-norm blocks, a last norm."""

    def __init__(
        self,
        *,
        size: int,
        frames: int,
        patch: int,
        tubelet: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        attention: Literal["clip", "moment"] = "clip",
        rope: Rope = "tiled",
        feature_layers: tuple[int, ...] = (),
    ) -> None:
        super().__init__(dim, depth, heads, mlp_ratio)
        self.dim, self.heads, self.attention, self.rope = dim, heads, attention, rope
        self.size, self.frames = size, frames
        self.patch_embed = PatchEmbed(dim, patch, tubelet)
        self.levels = feature_layers or (depth,)
        # The deepest level's norm is the encoder's own.
        self.level_norms = nn.ModuleList(
            nn.LayerNorm(dim, eps=NORM_EPS) for _ in feature_layers[:-1]
        )
        self.init_weights()

    def forward(self, x: Tensor, keep: Tensor | None = None, *, levels: bool = False) -> Tensor:
        """Encode a video, or only the tokens `keep` of it: the others are dropped at the door.

        Args:
            x: normalised video [B, 3, T, H, W]; T and H, W divide by tubelet and patch.
            keep: token ids int64 [B, n], or None for all N tokens. Where tokens attend to those
                of their own moment only, `keep` holds whole moments in order.
            levels: all levels of the encoder side by side, each behind its norm.

        Returns:
            [B, n or N, dim], in the order of `keep`; [B, n or N, levels * dim] with `levels`.
        """
        tokens = self.patch_embed(x, keep)
        grid = self.patch_embed.grid(x)
        if self.attention == "moment":
            return self._forward_timesteps(tokens, grid)
        rotation = rotary_for_tokens(grid, keep, self.head_dim, tokens, self.rope)
        if levels:
            return self._forward_feature_layers(tokens, rotation)
        out: Tensor = self.norm(self.run_blocks(tokens, rotation))
        return out

    def _forward_feature_layers(self, x: Tensor, rotation: Rotation) -> Tensor:
        """[B, n, dim] -> [B, n, levels * dim], the shallowest level first."""
        norms, out = iter([*self.level_norms, self.norm]), []
        for depth, block in enumerate(self.blocks, start=1):
            x = self.run_block(block, x, rotation)
            if depth in self.levels:
                out.append(next(norms)(x))
        return torch.cat(out, dim=-1)

    def _forward_timesteps(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Every moment by itself, [B, moments * places, dim] -> the same."""
        _, height, width = grid
        moments = tokens.view(-1, height * width, self.dim)
        rotation = rotary_for_tokens((1, height, width), None, self.head_dim, moments, self.rope)
        out: Tensor = self.norm(self.run_blocks(moments, rotation))
        return out.view(tokens.shape)


def build_encoder(model: Model, *, size: int, frames: int) -> nn.Module:
    """The encoder of a job's `model`, built in or the user's own, freshly initialised."""
    shape: dict[str, Any] = {
        "size": size,
        "frames": frames,
        "patch": model.patch,
        "tubelet": model.tubelet,
    }
    if isinstance(model.encoder, ViTConfig):
        own = model.encoder.model_dump(exclude={"kind"})
        return VisionTransformer(**shape, **own, rope=model.rope, feature_layers=model.levels)
    if isinstance(model.encoder, ConvEncoderConfig):
        return ConvolutionalEncoder(model.encoder, patch=model.patch, tubelet=model.tubelet)
    if isinstance(model.encoder, PCAEncoderConfig):
        return PCAPatchEncoder(model.encoder, patch=model.patch, tubelet=model.tubelet)
    part = import_component(model.encoder.kind)
    encoder: nn.Module = part(component_config(model.encoder), **shape)
    return encoder


def encoder_width(encoder: nn.Module) -> int:
    """The width of an encoder's tokens.

    Raises:
        RequestError: a custom encoder has no integer attribute `dim`.
    """
    dim = getattr(encoder, "dim", None)
    if not isinstance(dim, int):
        raise RequestError(
            f"{type(encoder).__name__} has no integer attribute 'dim'",
            where="model.encoder",
            hint="set self.dim to the width of a token",
        )
    return dim
