"""What a stack of blocks costs: weights, FLOPs, and what its backward pass needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from orchestrator.job import ConvEncoderConfig, Model, PCAEncoderConfig, PredictorConfig, ViTConfig

STEM_KERNEL_SIZE, KERNEL_SIZE = 4, 3
"""Kernels of `jepa/encoders/convolutional.py`: of the first convolution, of all others."""


@dataclass(frozen=True)
class TransformerCost:
    """A stack of transformer blocks."""

    dim: int
    hidden: int
    depth: int
    heads: int
    attention_spans: tuple[int, ...] = ()
    """Tokens that a token attends to, for every attention of a block; (): one, to the whole
    sequence."""
    adaln_zero: bool = False
    """Whether norms have no weights of their own, and shifts, scales and gates follow an action."""

    @classmethod
    def from_config(
        cls, part: ViTConfig | PredictorConfig, spans: tuple[int, ...] = (), adaptive: bool = False
    ) -> TransformerCost:
        hidden = int(part.dim * part.mlp_ratio)
        return cls(part.dim, hidden, part.depth, part.heads, spans, adaptive)

    @property
    def _attentions(self) -> int:
        """Of a block."""
        return max(1, len(self.attention_spans))

    @cached_property
    def parameters(self) -> int:
        """Norms, qkv, projections and MLP of every block, and the last norm."""
        return sum(self.tensors())

    def tensors(self) -> Iterator[int]:
        """Elements of every tensor."""
        d, h, n = self.dim, self.hidden, self._attentions
        norms = [6 * d * d, 6 * d] if self.adaln_zero else [d] * 2 * (n + 1)
        attention = [3 * d * d, 3 * d, d * d, d] * n
        for _ in range(self.depth):
            yield from (*norms, *attention, d * h, h, h * d, d)
        yield from (d, d)

    def flops(self, tokens: int) -> float:
        """Forward FLOPs on a sequence of `tokens`."""
        d, h = self.dim, self.hidden
        linear = self._attentions * 4 * d * d + 2 * d * h + (6 * d * d if self.adaln_zero else 0)
        return self.depth * 2.0 * tokens * linear + self.attention(tokens)

    def recomputed(self, tokens: int) -> float:
        """FLOPs of a forward that is repeated for the backward pass: a block's last product
        is not needed again, but for its gate's gradient."""
        if self.adaln_zero:
            return self.flops(tokens)
        return self.flops(tokens) - self.depth * 2.0 * tokens * self.dim * self.hidden

    def attention(self, tokens: int) -> float:
        """The part of the forward FLOPs that is QK^T and AV."""
        return self.depth * 4.0 * tokens * sum(self.attention_spans or (tokens,)) * self.dim

    def saved_activations(self, tokens: int, checkpointing: bool) -> float:
        """Values that a forward on `tokens` keeps: of every block all, or its input alone."""
        return self.depth * (tokens * self.dim if checkpointing else self.block_activations(tokens))

    def block_activations(self, tokens: int) -> float:
        """Values that one block keeps."""
        adaptive = 12.0 if self.adaln_zero else 0.0
        each = (2.0 + 8.0 * self._attentions + adaptive) * self.dim + 2.0 * self.hidden
        return tokens * each


@dataclass(frozen=True)
class ConvEncoderCost:
    """The stages of a convolutional encoder behind its first convolution, on one place's share of a
    picture: `patch` x `patch` pixels, one token."""

    dim: int
    channels: tuple[int, ...]
    """Of every stage, each half as wide and high as the one before."""
    blocks: int

    @classmethod
    def from_config(cls, encoder: ConvEncoderConfig, patch: int) -> ConvEncoderCost:
        return cls(encoder.dim, encoder.channels(patch), encoder.blocks)

    @cached_property
    def parameters(self) -> int:
        """Convolutions and norms, without the first convolution."""
        return sum(self.tensors())

    def tensors(self) -> Iterator[int]:
        """Elements of every tensor."""
        for wide, channels in zip(self.channels, self.channels[1:], strict=False):
            yield from (wide * channels * KERNEL_SIZE**2, channels)
            yield from [
                channels,
                channels,
                *[channels**2 * KERNEL_SIZE**2, channels] * 2,
            ] * self.blocks

    def flops(self, tokens: int) -> float:
        """Forward FLOPs on `tokens` places."""
        total = 0.0
        for area, wide, channels in self._stages():
            products: int = channels * (wide + 2 * channels * self.blocks)
            total += 2.0 * area * KERNEL_SIZE**2 * products
        return tokens * total

    def _stages(self) -> Iterator[tuple[float, int, int]]:
        """Of every stage but the first: pixels of a place, channels before and in it."""
        deepest = len(self.channels) - 1
        for depth in range(1, len(self.channels)):
            yield 4.0 ** (deepest - depth), self.channels[depth - 1], self.channels[depth]

    def recomputed(self, tokens: int) -> float:
        """Convolutions are not done again."""
        return 0.0

    def attention(self, tokens: int) -> float:
        """There is none."""
        return 0.0

    def saved_activations(self, tokens: int, checkpointing: bool) -> float:
        """Values that a forward keeps: of a stage what goes into its GELU and comes out of it, of a
        block what goes into its norm, its two GELUs and its two convolutions."""
        first = 2.0 * 4.0 ** (len(self.channels) - 1) * self.channels[0]
        later = sum(area * own * (2.0 + 4 * self.blocks) for area, _, own in self._stages())
        return tokens * (first + later)

    def block_activations(self, tokens: int) -> float:
        """Nothing is done again, so no block is whole for a moment."""
        return 0.0


@dataclass(frozen=True)
class RecurrentPredictorCost:
    """A convolutional predictor with memories between residual blocks, from codes to codes
    (`orchestrator.jepa.objectives.dynamics.predictor`)."""

    dim: int
    depth: int
    """Memories."""
    latent_dim: int

    def _maps(self) -> Iterator[tuple[int, int, int]]:
        """Every product but the first: weights, biases, and values a place that it and what leads
        to it keep."""
        d, k = self.dim, KERNEL_SIZE**2
        yield from [(k * d * d, d, 3 * d), (k * d * d, d, 2 * d)] * (self.depth + 1)
        yield from [(2 * k * d * d, 2 * d, 2 * d), (2 * k * d * d, 0, 4 * d)] * self.depth
        yield from [(d * d, d, d)] * self.depth
        yield (k * d * self.latent_dim, self.latent_dim, 3 * d)

    @property
    def in_proj_weights(self) -> int:
        """Weights of the first product, which reads a code, what changed in it, and a mark."""
        return KERNEL_SIZE**2 * (2 * self.latent_dim + 1) * self.dim

    @cached_property
    def parameters(self) -> int:
        """Convolutions, norms, and what memories begin with."""
        return sum(self.tensors())

    def tensors(self) -> Iterator[int]:
        """Elements of every tensor."""
        yield from (self.in_proj_weights, self.dim)
        for weights, biases, _ in self._maps():
            yield from (weights, *([biases] if biases else []))
        yield from [self.dim, self.dim] * (self.depth + 1 + self.depth + 1)
        yield from [self.dim] * self.depth

    def flops(self, tokens: int) -> float:
        """Forward FLOPs on `tokens` places of moments."""
        return (
            2.0 * tokens * (self.in_proj_weights + sum(weights for weights, _, _ in self._maps()))
        )

    def recomputed(self, tokens: int) -> float:
        """Convolutions are not done again."""
        return 0.0

    def attention(self, tokens: int) -> float:
        """There is none."""
        return 0.0

    def saved_activations(self, tokens: int, checkpointing: bool) -> float:
        """Values that a forward keeps: what goes into norms, activations and convolutions."""
        inside = sum(kept for _, _, kept in self._maps())
        return tokens * (2.0 * self.latent_dim + 1 + inside)

    def block_activations(self, tokens: int) -> float:
        """Nothing is done again, so no block is whole for a moment."""
        return 0.0


BuiltInEncoder = ViTConfig | ConvEncoderConfig | PCAEncoderConfig
"""What encoders cost, only building a user's own shows."""


def patch_embed_cost(encoder: BuiltInEncoder, model: Model) -> tuple[int, int, float]:
    """What meets the pixels first: its weights, its biases, and its forward FLOPs for a token."""
    pixels = 3 * model.tubelet * model.patch**2
    if isinstance(encoder, ViTConfig | PCAEncoderConfig):
        return pixels * encoder.dim, encoder.dim, 2.0 * pixels * encoder.dim
    width = encoder.channels(model.patch)[0]
    weights = 3 * model.tubelet * STEM_KERNEL_SIZE**2 * width
    return weights, width, 2.0 * weights * (model.patch // 2) ** 2


def encoder_cost(
    encoder: BuiltInEncoder, model: Model, spans: tuple[int, ...]
) -> TransformerCost | ConvEncoderCost:
    """The blocks of an encoder; `spans`: what a token attends to."""
    if isinstance(encoder, PCAEncoderConfig):
        return ConvEncoderCost(encoder.dim, (encoder.dim,), 0)
    if isinstance(encoder, ConvEncoderConfig):
        return ConvEncoderCost.from_config(encoder, model.patch)
    return TransformerCost.from_config(encoder, spans)
