"""Pre-norm transformer blocks with rotary attention, shared by encoder and predictor."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orchestrator.jepa.rope import Rotation, rotate

NORM_EPS = 1e-6
INIT_STD = 0.02
RECOMPILE_LIMIT = 64
MAX_EXPLICIT_ATTENTION_TOKENS = 96
"""Tokens of a sequence up to which plain products in bf16 are faster on a CPU."""


class Attention(nn.Module):
    """Multi-head self-attention whose queries and keys are rotated to their positions."""

    def __init__(self, dim: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Rotation, attn_mask: Tensor | None = None) -> Tensor:
        """[B, n, dim] -> [B, n, dim]; `attn_mask` bool [n, n]: what (column) a token (row) sees."""
        dim = x.shape[-1]
        qk, v = self.qkv(x).split([2 * dim, dim], dim=-1)
        q, k = rotate(qk.view(*x.shape[:2], 2, self.heads, -1), rotation).unbind(2)
        v = v.view(*x.shape[:2], self.heads, -1)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        x = attention(q, k, v, causal=self.causal, attn_mask=attn_mask)
        out: Tensor = self.proj(x.transpose(1, 2).flatten(2))
        return out

    def step_with_cache(
        self,
        x: Tensor,
        rotation: Rotation,
        kv_cache: KVCache,
        num_queries: int,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Of new tokens, which join the past, the last ones, attended to it all. Not for training.

        Args:
            x: the new tokens, [B, n, dim].
            rotation: of these.
            kv_cache: keys and values of the tokens before; gets theirs.
            num_queries: how many of them attend.
            attn_mask: bool [num_queries, n], where not all attend to all of x; the past is empty
                then.

        Returns:
            [B, num_queries, dim].
        """
        dim, (cos, sin) = x.shape[-1], rotation
        weight, bias = self.qkv.weight, self.qkv.bias
        kv = F.linear(x, weight[dim:], bias[dim:]).view(*x.shape[:2], 2, self.heads, -1)
        q = F.linear(x[:, -num_queries:], weight[:dim], bias[:dim]).view(
            len(x), num_queries, 1, self.heads, -1
        )
        q = rotate(q, (cos[:, -num_queries:], sin[:, -num_queries:]))[:, :, 0]
        k, v = kv_cache.append(rotate(kv[:, :, :1], rotation)[:, :, 0], kv[:, :, 1])
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class KVCache:
    """Keys and values of the tokens that an attention has seen, [B, n, heads, head_dim] each."""

    def __init__(self) -> None:
        self._keys_values: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of new tokens behind all before them: the whole."""
        if self._keys_values is not None:
            keys, values = (
                torch.cat([self._keys_values[0], keys], 1),
                torch.cat([self._keys_values[1], values], 1),
            )
        self._keys_values = keys, values
        return keys, values

    def repeat(self, count: int) -> KVCache:
        """The same past `count` times for each row: [B * count, n, heads, head_dim]."""
        other = KVCache()
        if self._keys_values is not None:
            keys, values = (
                one[:, None].expand(-1, count, *one.shape[1:]).flatten(0, 1)
                for one in self._keys_values
            )
            other._keys_values = keys, values
        return other


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, attn_mask: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention, [B, heads, n, head_dim] each; `attn_mask` bool [n, n].

    Of short sequences in bf16 on a CPU by plain products: torch's kernel there has no fast
    backward pass (5 to 9 times their time, measured at 12 to 96 tokens).
    """
    tokens = q.shape[-2]
    if (
        q.device.type != "cpu"
        or q.dtype != torch.bfloat16
        or tokens > MAX_EXPLICIT_ATTENTION_TOKENS
    ):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        future = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    out: Tensor = scores.softmax(-1).to(v.dtype) @ v
    return out


class MLP(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, dim] -> [B, n, dim]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class ResidualStreamBlock(nn.Module):
    """A block whose parts are added to the stream."""

    def output_projections(self) -> list[nn.Linear]:
        """The projections that write into the stream."""
        raise NotImplementedError


class Block(ResidualStreamBlock):
    """Attention and MLP, each behind its norm and added to the stream."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, rotation: Rotation, attn_mask: Tensor | None = None) -> Tensor:
        """[B, n, dim] -> [B, n, dim]; `attn_mask` as attention takes it."""
        x = x + self.attn(self.norm1(x), rotation, attn_mask)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def step_with_cache(
        self,
        x: Tensor,
        rotation: Rotation,
        kv_cache: KVCache,
        num_queries: int,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """The last `num_queries` of new tokens, as `Attention.step_with_cache` takes them."""
        mixed = self.attn.step_with_cache(self.norm1(x), rotation, kv_cache, num_queries, attn_mask)
        x = x[:, -num_queries:] + mixed
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def output_projections(self) -> list[nn.Linear]:
        """Of attention and of the MLP."""
        return [self.attn.proj, self.mlp.fc2]


class Transformer(nn.Module):
    """What encoder and predictor have in common: a stack of blocks and a last norm."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        block: Callable[[int, int, float], ResidualStreamBlock] = Block,
    ) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.checkpointing = False
        self.blocks = nn.ModuleList(block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def run_blocks(self, x: Tensor, *more: Rotation | Tensor) -> Tensor:
        """All blocks in a row, [B, ..., dim] -> the same; the last norm is the caller's.

        `more` is what every block takes besides: rotations, and what it is conditioned on.
        """
        for block in self.blocks:
            x = self.run_block(block, x, *more)
        return x

    def run_block(self, block: nn.Module, x: Tensor, *more: Rotation | Tensor) -> Tensor:
        """One of the blocks, [B, ..., dim] -> the same."""
        if self.checkpointing and torch.is_grad_enabled():
            # No block draws random numbers, so there is no state to restore.
            again: Tensor = checkpoint(
                block, x, *more, use_reentrant=False, preserve_rng_state=False
            )
            return again
        out: Tensor = block(x, *more)
        return out

    def set_activation_checkpointing(self, on: bool) -> None:
        """Keep only the blocks' inputs for the backward pass and compute the rest again."""
        self.checkpointing = on

    def compile_blocks(self, *, static_shapes: bool = True) -> None:
        """torch.compile each block in place; the names of the weights stay as they are.

        With fixed shapes every count of tokens gets kernels of its own, shared by all blocks.
        """
        for block in self.blocks:
            block.compile(
                dynamic=False if static_shapes else None,
                # All blocks are one piece of code: each mask and the teacher adds a shape to it.
                recompile_limit=RECOMPILE_LIMIT,
            )

    @torch.no_grad()
    def init_weights(self) -> None:
        """Published initialisation: truncated normal of std 0.02, biases 0, norms 1.

        The projections that write into the stream are divided by sqrt(2 * layer), layer from 1.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        for layer, block in enumerate(self.blocks, start=1):
            assert isinstance(block, ResidualStreamBlock)
            for linear in block.output_projections():
                linear.weight /= math.sqrt(2.0 * layer)
