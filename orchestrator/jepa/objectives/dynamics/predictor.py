"""A predictor with a memory: from the codes of the moments so far to those of the next.

Convolutions see what touches what; between them lie memories, a state for every place that is
carried from moment to moment: a minimal gated unit (arXiv 1603.09420) whose products are
convolutions (as in ConvLSTM, arXiv 1506.04214), so that what is remembered can move. The next
moment is the last one and what changes in it: most of a picture stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.jepa.encoders.convolutional import GROUPS, KERNEL, ResidualBlock
from orchestrator.jepa.rope import Grid
from orchestrator.job import Codes, Model

FIRST_CHANGE = 1e-3
"""Deviation of the weights that say what changes, at first: next to nothing does."""


@dataclass(frozen=True)
class Recalled:
    """What is carried on from each of some moments."""

    codes: Tensor
    """As they were seen: [moments, B, codes, H, W]."""

    memories: list[Tensor]
    """[moments * B, dim, H, W] each."""

    def last(self) -> Recalled:
        """From the last moment alone."""
        batch = self.codes.shape[1]
        return Recalled(self.codes[-1:], [memory[-batch:] for memory in self.memories])

    def apart(self) -> Recalled:
        """From every moment as if it were the last one of a clip of its own."""
        return Recalled(self.codes.flatten(0, 1)[None], self.memories)


class Memory(nn.Module):
    """x + what is read off a state that every moment changes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, dim)
        self.see = nn.Conv2d(dim, 2 * dim, KERNEL, padding="same")
        self.recall = nn.Conv2d(dim, 2 * dim, KERNEL, padding="same", bias=False)
        self.first = nn.Parameter(torch.zeros(dim, 1, 1))
        self.tell = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, batch: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """[moments * batch, dim, H, W] and the state before them, None: at the beginning ->
        the same, and the state after each."""
        if state is None:
            state = self.first.expand(batch, -1, *x.shape[2:])
        states = []
        for seen in self.see(self.norm(x)).split(batch):
            gate, new = (seen + self.recall(state)).chunk(2, dim=1)
            state = state + torch.sigmoid(gate) * (torch.tanh(new) - state)
            states.append(state)
        known = torch.cat(states)
        return x + self.tell(known), known


class RecurrentPredictor(nn.Module):
    """Memories between residual blocks, moment by moment.

    Args:
        codes: numbers of a code.
        dim: channels inside.
        depth: memories.
        horizons: moments ahead that `ahead` gives.
    """

    masks = 1
    """There is one way to ask: what comes next."""

    def __init__(self, *, codes: int, grid: Grid, dim: int, depth: int, horizons: int = 1) -> None:
        super().__init__()
        self.grid, self.horizons = grid, horizons
        # A code, what changed in it, and whether it is hidden.
        self.embed = nn.Conv2d(2 * codes + 1, dim, KERNEL, padding="same")
        self.blocks = nn.ModuleList(ResidualBlock(dim) for _ in range(depth + 1))
        self.memories = nn.ModuleList(Memory(dim) for _ in range(depth))
        self.norm = nn.GroupNorm(GROUPS, dim)
        self.proj = nn.Conv2d(dim, codes, KERNEL, padding="same")
        nn.init.trunc_normal_(self.proj.weight, std=FIRST_CHANGE)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def next(
        self, z: Tensor, hidden: Tensor | None = None, past: Recalled | None = None
    ) -> tuple[Tensor, Recalled]:
        """What follows each moment, from it and all before.

        Args:
            z: codes of whole moments, float32 [B, n, codes]: in bf16 what stays as it is would
                not stay.
            hidden: ids of tokens that are not seen, int64 [B, n_h]; the last code seen at a place
                stands for them.
            past: what is carried on from the moment before these.

        Returns:
            [B, n, codes], and what may be carried on from each.
        """
        batch, _, height, width = len(z), *self.grid
        moments = z.view(batch, -1, height, width, z.shape[-1]).permute(1, 0, 4, 2, 3)
        marked = torch.zeros_like(moments[:, :, :1])
        if hidden is not None:
            flags = torch.zeros_like(z[..., 0]).scatter_(1, hidden, 1.0)
            marked = flags.view(batch, -1, 1, height, width).transpose(0, 1)
            moments = _held(moments, marked)
        before = moments[:1] if past is None else past.codes  # of one moment
        changed = moments - torch.cat([before, moments[:-1]])
        read = torch.cat([moments, changed, marked], dim=2).flatten(0, 1)
        x = self.embed(read.to(self.embed.weight.dtype))
        x, states = self.blocks[0](x), []
        for i, memory in enumerate(self.memories):
            x, state = memory(x, batch, None if past is None else past.memories[i])
            x = self.blocks[i + 1](x)
            states.append(state)
        change = self.proj(F.gelu(self.norm(x))).view(moments.shape)
        after = moments + change.float()
        told = after.permute(1, 0, 3, 4, 2).reshape(z.shape)
        return told, Recalled(moments, states)

    def ahead(self, features: Tensor) -> Tensor:
        """What follows each moment, beyond the next one from predictions: [B, n, codes], n tokens
        of whole moments, to [B, moments, places, horizons, codes]."""
        told, past = self.next(features)
        moments = told.view(len(told), -1, self.grid[1] * self.grid[2], told.shape[-1])
        steps, past = [moments], past.apart()
        while len(steps) < self.horizons:
            each = steps[-1].transpose(0, 1)
            told, past = self.next(each.flatten(0, 1), past=past)
            steps.append(told.view(each.shape).transpose(0, 1))
        return torch.stack(steps, dim=3)

    def forward(self, z: Tensor, context: Tensor, target: Tensor, mask: int = 0) -> Tensor:
        """Predict all that follows the first moments, beyond the next one from predictions.

        Args:
            z: codes of the first moments, [B, n_c, codes].
            context: their ids int64 [B, n_c]: 0 to n_c - 1.
            target: the ids that follow, int64 [B, n_t].
            mask: 0.

        Returns:
            [B, n_t, codes].
        """
        area = self.grid[1] * self.grid[2]
        told, past = self.next(z)
        after = [told[:, -area:]]
        while len(after) * area < target.shape[1]:
            told, past = self.next(after[-1], past=past.last())
            after.append(told)
        return torch.cat(after, dim=1)


def _held(moments: Tensor, marked: Tensor) -> Tensor:
    """Codes [T, B, codes, H, W] whose hidden ones ([T, B, 1, H, W] is 1) are those last seen
    at their place; zeros where none were."""
    times = torch.arange(len(moments), device=moments.device).view(-1, 1, 1, 1, 1)
    last = torch.where(marked > 0, -1, times).cummax(0).values
    held = moments.gather(0, last.clamp(min=0).expand_as(moments))
    return torch.where(last < 0, 0, held)


def build_recurrent(model: Model, *, grid: Grid, horizons: int) -> RecurrentPredictor:
    """The predictor of a job's `model`, whose encoder is `codes`."""
    assert isinstance(model.encoder, Codes)
    shape = model.predictor
    return RecurrentPredictor(
        codes=model.encoder.dim, grid=grid, dim=shape.dim, depth=shape.depth, horizons=horizons
    )
