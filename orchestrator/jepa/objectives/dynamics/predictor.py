"""A predictor with a memory: from the codes of the moments so far to those of the next.

Convolutions see what touches what; between them lie memories, a state for every place that is
carried from moment to moment: a minimal gated unit (arXiv 1603.09420) whose products are
convolutions (as in ConvLSTM, arXiv 1506.04214), so that what is remembered can move. The next
moment is the last one and what changes in it: most of a picture stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.jepa.encoders.convolutional import KERNEL_SIZE, NORM_GROUPS, ConvResidualBlock
from orchestrator.jepa.rope import Grid
from orchestrator.job import Model, PCAEncoderConfig

if TYPE_CHECKING:
    from orchestrator.jepa.model_config import ModelConfig

OUTPUT_INIT_STD = 1e-3
"""Deviation of the weights that say what changes, at first: next to nothing does."""


@dataclass(frozen=True)
class RecurrentState:
    """What is carried on from each of some moments."""

    last_latents: Tensor
    """As they were seen: [moments, B, codes, H, W]."""

    hidden_states: list[Tensor]
    """[moments * B, dim, H, W] each."""

    def at_last_timestep(self) -> RecurrentState:
        """From the last moment alone."""
        batch = self.last_latents.shape[1]
        return RecurrentState(
            self.last_latents[-1:], [memory[-batch:] for memory in self.hidden_states]
        )

    def per_timestep(self) -> RecurrentState:
        """From every moment as if it were the last one of a clip of its own."""
        return RecurrentState(self.last_latents.flatten(0, 1)[None], self.hidden_states)


class ConvGatedUnit(nn.Module):
    """x + what is read off a state that every moment changes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, dim)
        self.see = nn.Conv2d(dim, 2 * dim, KERNEL_SIZE, padding="same")
        self.recall = nn.Conv2d(dim, 2 * dim, KERNEL_SIZE, padding="same", bias=False)
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
        latent_dim: numbers of a code.
        dim: channels inside.
        depth: memories.
        horizons: moments ahead that `predict_next` gives.
    """

    num_mask_tokens = 1
    """There is one way to ask: what comes next."""

    def __init__(
        self, *, latent_dim: int, grid: Grid, dim: int, depth: int, horizons: int = 1
    ) -> None:
        super().__init__()
        self.grid, self.num_horizons = grid, horizons
        # A code, what changed in it, and whether it is hidden.
        self.embed = nn.Conv2d(2 * latent_dim + 1, dim, KERNEL_SIZE, padding="same")
        self.blocks = nn.ModuleList(ConvResidualBlock(dim) for _ in range(depth + 1))
        self.memories = nn.ModuleList(ConvGatedUnit(dim) for _ in range(depth))
        self.norm = nn.GroupNorm(NORM_GROUPS, dim)
        self.proj = nn.Conv2d(dim, latent_dim, KERNEL_SIZE, padding="same")
        nn.init.trunc_normal_(self.proj.weight, std=OUTPUT_INIT_STD)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def predict_one_step(
        self, z: Tensor, hidden_ids: Tensor | None = None, state: RecurrentState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """What follows each moment, from it and all before.

        Args:
            z: codes of whole moments, float32 [B, n, codes]: in bf16 what stays as it is would
                not stay.
            hidden_ids: ids of tokens that are not seen, int64 [B, n_h]; the last code seen at a
                place stands for them.
            state: what is carried on from the moment before these.

        Returns:
            [B, n, codes], and what may be carried on from each.
        """
        batch, _, height, width = len(z), *self.grid
        moments = z.view(batch, -1, height, width, z.shape[-1]).permute(1, 0, 4, 2, 3)
        marked = torch.zeros_like(moments[:, :, :1])
        if hidden_ids is not None:
            flags = torch.zeros_like(z[..., 0]).scatter_(1, hidden_ids, 1.0)
            marked = flags.view(batch, -1, 1, height, width).transpose(0, 1)
            moments = _fill_hidden_with_last_seen(moments, marked)
        before = moments[:1] if state is None else state.last_latents  # of one moment
        changed = moments - torch.cat([before, moments[:-1]])
        read = torch.cat([moments, changed, marked], dim=2).flatten(0, 1)
        x = self.embed(read.to(self.embed.weight.dtype))
        x, states = self.blocks[0](x), []
        for i, memory in enumerate(self.memories):
            x, hidden = memory(x, batch, None if state is None else state.hidden_states[i])
            x = self.blocks[i + 1](x)
            states.append(hidden)
        change = self.proj(F.gelu(self.norm(x))).view(moments.shape)
        after = moments + change.float()
        told = after.permute(1, 0, 3, 4, 2).reshape(z.shape)
        return told, RecurrentState(moments, states)

    def predict_next(self, features: Tensor) -> Tensor:
        """What follows each moment, beyond the next one from predictions: [B, n, codes], n tokens
        of whole moments, to [B, moments, places, horizons, codes]."""
        told, past = self.predict_one_step(features)
        moments = told.view(len(told), -1, self.grid[1] * self.grid[2], told.shape[-1])
        steps, past = [moments], past.per_timestep()
        while len(steps) < self.num_horizons:
            each = steps[-1].transpose(0, 1)
            told, past = self.predict_one_step(each.flatten(0, 1), state=past)
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
        told, past = self.predict_one_step(z)
        after = [told[:, -area:]]
        while len(after) * area < target.shape[1]:
            told, past = self.predict_one_step(after[-1], state=past.at_last_timestep())
            after.append(told)
        return torch.cat(after, dim=1)


def _fill_hidden_with_last_seen(moments: Tensor, marked: Tensor) -> Tensor:
    """Codes [T, B, codes, H, W] whose hidden ones ([T, B, 1, H, W] is 1) are those last seen
    at their place; zeros where none were."""
    times = torch.arange(len(moments), device=moments.device).view(-1, 1, 1, 1, 1)
    last = torch.where(marked > 0, -1, times).cummax(0).values
    held = moments.gather(0, last.clamp(min=0).expand_as(moments))
    return torch.where(last < 0, 0, held)


def build_recurrent_predictor(model: Model, *, grid: Grid, horizons: int) -> RecurrentPredictor:
    """The predictor of a job's `model`, whose encoder is `codes`."""
    assert isinstance(model.encoder, PCAEncoderConfig)
    shape = model.predictor
    return RecurrentPredictor(
        latent_dim=model.encoder.dim, grid=grid, dim=shape.dim, depth=shape.depth, horizons=horizons
    )


def rebuild_predictor(
    config: ModelConfig, encoder: nn.Module, num_mask_tokens: int
) -> RecurrentPredictor:
    """The predictor of a saved model, freshly initialised; it has no mask tokens."""
    grid, horizons = config.token_grid_of(config.frames), config.job["objective"]["horizons"]
    return build_recurrent_predictor(config.model, grid=grid, horizons=horizons)
