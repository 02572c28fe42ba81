"""Attentive probes, many in one pass: a learned query looks at the tokens (arXiv 2506.09985,
appendix on probe-based evaluation).

Every learning rate with every weight decay has a head of its own; all heads see the same batches
and share no weight. Their weights are stacked, so that the tokens are read once for all of them.

One query stands for all of cross-attention's queries and keys: with a single query q, the score of
a token z is (q W_k) z, one vector for each attention head, and that vector is what is learned here;
the values are mapped after they are averaged, which is the same sum. Tokens of an encoder with
rotary positions do not say where they are, so a learned place is added along each axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.job.config.probe import Attentive

BETAS, EPS = (0.9, 0.999), 1e-8
MLP_RATIO = 4

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs [heads, B, outputs] and targets [B, ...] to a loss of each head, [heads]."""

TokenReader = Callable[[np.ndarray], Tensor]
"""From row numbers to their tokens, float32 [B, tokens, dim]."""


@dataclass(frozen=True)
class HeadHyperparameters:
    """What tells heads apart."""

    lr: float
    weight_decay: float


def hyperparameter_grid(config: Attentive) -> list[HeadHyperparameters]:
    """Every learning rate with every weight decay."""
    return [
        HeadHyperparameters(*pair) for pair in itertools.product(config.lrs, config.weight_decays)
    ]


class AttentiveHeads(nn.Module):
    """`count` attentive heads of one shape, with the same first weights.

    Args:
        grid: tokens along time, height and width.
    """

    def __init__(
        self, count: int, dim: int, grid: tuple[int, int, int], outputs: int, seed: int
    ) -> None:
        super().__init__()
        self.grid = grid
        heads = max(h for h in range(1, max(1, dim // 64) + 1) if dim % h == 0)
        draw = torch.Generator().manual_seed(seed)

        def weights(*shape: int, fan: int) -> nn.Parameter:
            one = torch.randn(shape, generator=draw) / math.sqrt(fan)
            return nn.Parameter(one.expand(count, *shape).clone())

        def fixed(*shape: int, value: float = 0.0) -> nn.Parameter:
            return nn.Parameter(torch.full((count, *shape), value))

        hidden = MLP_RATIO * dim
        self.query = weights(dim, fan=dim)
        self.attention_query = weights(heads, dim, fan=dim)
        self.position_embeddings = nn.ParameterList(
            [weights(length, dim, fan=4) for length in grid]
        )
        self.value = weights(heads, dim, dim // heads, fan=dim)
        self.value_out = weights(dim, dim, fan=dim)
        self.mlp_in = weights(dim, hidden, fan=dim)
        self.mlp_out = weights(hidden, dim, fan=hidden)
        self.output_proj = weights(dim, outputs, fan=dim)
        self.value_bias, self.value_out_bias = fixed(heads, dim // heads), fixed(dim)
        self.mlp_in_bias, self.mlp_out_bias = fixed(hidden), fixed(dim)
        self.output_proj_bias = fixed(outputs)
        self.scale = nn.ParameterList([fixed(dim, value=1.0), fixed(dim, value=1.0)])
        self.shift = nn.ParameterList([fixed(dim), fixed(dim)])

    def decayed_parameter_ids(self) -> set[int]:
        """Ids of the weights that decay: the matrices, not biases, norms, query and places."""
        matrices = (
            self.attention_query,
            self.value,
            self.value_out,
            self.mlp_in,
            self.mlp_out,
            self.output_proj,
        )
        return {id(matrix) for matrix in matrices}

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, tokens, dim] -> [heads of the grid of settings, B, outputs]."""
        z = F.layer_norm(tokens, tokens.shape[-1:])
        pooled = self._pooled(z)
        values = torch.einsum("kbhd,khde->kbhe", pooled, self.value) + self.value_bias[:, None]
        out = values.flatten(2) @ self.value_out + self.value_out_bias[:, None]
        out = out + self.query[:, None]
        inner = self._normed(out, 0) @ self.mlp_in + self.mlp_in_bias[:, None]
        out = out + F.gelu(inner) @ self.mlp_out + self.mlp_out_bias[:, None]
        found: Tensor = self._normed(out, 1) @ self.output_proj + self.output_proj_bias[:, None]
        return found

    def _pooled(self, z: Tensor) -> Tensor:
        """Tokens with their places, averaged by attention: [k, B, heads, dim]."""
        scores = torch.einsum("bnd,khd->kbhn", z, self.attention_query)
        shape = (*scores.shape[:3], *self.grid)
        scores = scores.view(shape)
        for axis, place in enumerate(self.position_embeddings):
            along = torch.einsum("kld,khd->khl", place, self.attention_query)
            view = [1, 1, 1]
            view[axis] = -1
            scores = scores + along.view(along.shape[0], 1, along.shape[1], *view)
        weight = scores.flatten(3).softmax(-1)
        pooled = torch.einsum("kbhn,bnd->kbhd", weight, z)
        weight = weight.view(shape)
        for axis, place in enumerate(self.position_embeddings):
            others = [3 + other for other in range(3) if other != axis]
            pooled = pooled + torch.einsum("kbhl,kld->kbhd", weight.sum(others), place)
        return pooled

    def _normed(self, x: Tensor, number: int) -> Tensor:
        scaled = F.layer_norm(x, x.shape[-1:]) * self.scale[number][:, None]
        return torch.add(scaled, self.shift[number][:, None])


class StackedAdamW:
    """AdamW over stacked weights: a learning rate and a weight decay for each of the stack."""

    def __init__(
        self, heads: AttentiveHeads, settings: Sequence[HeadHyperparameters], device: str
    ) -> None:
        self._weights = list(heads.parameters())
        self._decayed = heads.decayed_parameter_ids()
        self._lr = torch.tensor([one.lr for one in settings], device=device)
        self._decay = torch.tensor([one.weight_decay for one in settings], device=device)
        self._first = [torch.zeros_like(w) for w in self._weights]
        self._second = [torch.zeros_like(w) for w in self._weights]
        self._step = 0

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        """One step at `lr_scale` of each peak learning rate; gradients are dropped."""
        self._step += 1
        first_left, second_left = (1 - beta**self._step for beta in BETAS)
        for weight, first, second in zip(self._weights, self._first, self._second, strict=True):
            grad = weight.grad
            assert grad is not None
            first.lerp_(grad, 1 - BETAS[0])
            second.lerp_(grad.square(), 1 - BETAS[1])
            shape = (-1, *[1] * (weight.ndim - 1))
            lr = (self._lr * lr_scale).view(shape)
            if id(weight) in self._decayed:
                weight.mul_(1 - lr * self._decay.view(shape))
            move = (first / first_left) / ((second / second_left).sqrt() + EPS)
            weight.sub_(lr * move)
            weight.grad = None


def train_heads(
    config: Attentive,
    settings: Sequence[HeadHyperparameters],
    read_tokens: TokenReader,
    rows: np.ndarray,
    targets: Tensor,
    loss: Loss,
    *,
    dim: int,
    grid: tuple[int, int, int],
    outputs: int,
    device: str = "cpu",
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> AttentiveHeads:
    """Train a head for each setting, all on the same batches.

    Args:
        rows: what `read` takes, int [n]; `targets` [n, ...] belong to them.
        on_step: called with steps done and all steps.
    """
    heads = AttentiveHeads(len(settings), dim, grid, outputs, config.seed).to(device)
    optimizer = StackedAdamW(heads, settings, device)
    draw = np.random.default_rng(config.seed)
    batches = -(-len(rows) // config.batch)
    total = config.epochs * batches
    for epoch in range(config.epochs):
        order = draw.permutation(len(rows))
        for number, chosen in enumerate(np.array_split(order, batches)):
            outputs_of = heads(read_tokens(rows[chosen]).to(device))
            # Heads share no weight: the gradient of the sum is that of each.
            each = loss(outputs_of, targets[torch.from_numpy(chosen)].to(device))
            each.sum().backward()  # type: ignore[no-untyped-call]
            step = epoch * batches + number
            optimizer.step(0.5 * (1 + math.cos(math.pi * step / total)))
            on_step(step + 1, total)
    return heads


@torch.no_grad()
def predict_heads(heads: AttentiveHeads, read: TokenReader, rows: np.ndarray, batch: int) -> Tensor:
    """Outputs float32 [settings, rows, outputs], on the CPU."""
    device = heads.query.device
    parts = [heads(read(part).to(device)).cpu() for part in _runs(rows, batch)]
    return torch.cat(parts, 1)


def _runs(rows: np.ndarray, length: int) -> list[np.ndarray]:
    return [rows[at : at + length] for at in range(0, len(rows), length)]
