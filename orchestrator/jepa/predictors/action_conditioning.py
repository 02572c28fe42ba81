"""Actions on their way into a predictor: brought to one scale, embedded, and what they turn there.

A block is conditioned as in DiT (arXiv 2212.09748, section 3.2, adaLN-Zero), which LeWorldModel
(arXiv 2603.19312) takes for its actions: from an action's embedding come a shift, a scale and a
gate of each of the block's two parts. The gates begin at zero, so every block begins as nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.jepa.rope import Rotation
from orchestrator.jepa.transformer import MLP, NORM_EPS, Attention, KVCache, ResidualStreamBlock
from orchestrator.job import Actions, ActionStatistics

if TYPE_CHECKING:
    from orchestrator.jepa.objectives.lewm.config import StateSupervision

ACTION_MLP_RATIO = 4
"""Width inside an action's embedder, over the width that it gives."""


class Standardizer:
    """(x - mean) / std of every number, in float32 whatever the model computes in.

    Constants of the data and no weights: they come from the job, and no checkpoint holds them.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32)
        self.std = torch.tensor(std, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., n] -> float32 [..., n]."""
        return (x.float() - self.mean.to(x.device)) / self.std.to(x.device)


def require_statistics(act: Actions) -> ActionStatistics:
    """What actions and states are brought to one scale by.

    Raises:
        RequestError: it is not known.
    """
    if act.statistics is None or act.frameskip is None:
        missing = "statistics" if act.statistics is None else "block"
        raise RequestError(
            f"data.actions.{missing} is not known before the data is read",
            where=f"data.actions.{missing}",
            hint="run the job, which reads it from the dataset, or write it there",
        )
    return act.statistics


def action_standardizer(act: Actions) -> Standardizer:
    """The scale of what is done between two frames: the mean and spread of an action for each of
    the block's control steps, or of a change: the spread of the states, and no mean."""
    known = require_statistics(act)
    if act.representation == "change":
        return Standardizer((0.0,) * len(known.state_mean), known.state_std)
    block = act.frameskip or 1
    return Standardizer(known.action_mean * block, known.action_std * block)


def state_standardizer(act: Actions) -> Standardizer:
    """The scale of a state."""
    known = require_statistics(act)
    return Standardizer(known.state_mean, known.state_std)


class ActionEmbedder(nn.Module):
    """What is done between two frames as one vector: its scale, linear, SiLU, linear.

    torch's own initialisation, as published: an action must be heard from the first step.
    """

    def __init__(self, act: Actions, dim: int) -> None:
        super().__init__()
        self.standardizer = action_standardizer(act)
        self.width = len(self.standardizer.mean)
        self.fc1 = nn.Linear(self.width, ACTION_MLP_RATIO * dim)
        self.fc2 = nn.Linear(ACTION_MLP_RATIO * dim, dim)

    def forward(self, actions: Tensor) -> Tensor:
        """Actions in the data's units [B, n, width] -> [B, n, dim]."""
        x = self.standardizer(actions).to(self.fc1.weight.dtype)
        out: Tensor = self.fc2(F.silu(self.fc1(x)))
        return out


class InverseDynamicsHead(nn.Module):
    """What was done between two moments, read off their embeddings by one linear map (PLDM, arXiv
    2502.14819, section 3). An embedding of which a step is a linear map has room that is even."""

    def __init__(self, act: Actions, dim: int) -> None:
        super().__init__()
        self.standardizer = action_standardizer(act)
        self.read = nn.Linear(2 * dim, len(self.standardizer.mean))

    def forward(self, z: Tensor, actions: Tensor) -> Tensor:
        """Mean square error of each clip: [B, n, dim], [B, n - 1, width] -> [B]."""
        told: Tensor = self.read(torch.cat([z[:, :-1], z[:, 1:]], dim=-1))
        apart = F.mse_loss(told.float(), self.standardizer(actions), reduction="none")
        return apart.mean((1, 2))


class StateHead(nn.Module):
    """The state at a moment, read off its embedding by one linear map."""

    def __init__(self, act: Actions, config: StateSupervision, dim: int) -> None:
        super().__init__()
        width = len(require_statistics(act).state_mean)
        plain = config.non_angle_dims(width)
        wrong = [n for n in (*plain, *config.angles) if n >= width]
        if not width or wrong:
            has = f"states of {width} numbers" if width else "no states"
            asked = f", and {wrong[0]} is asked for" if wrong else ""
            raise RequestError(
                f"the data has {has}{asked}",
                where="objective.states",
                hint="numbers count from 0" if width else "leave it out, or pack data with states",
            )
        self.standardizer, self.non_angle_dims, self.angle_dims = (
            state_standardizer(act),
            plain,
            list(config.angles),
        )
        self.read = nn.Linear(dim, len(plain) + 2 * len(self.angle_dims))

    def forward(self, z: Tensor, states: Tensor) -> Tensor:
        """Mean square error of each clip: [B, n, dim], [B, n, S] -> [B]."""
        angles = states[..., self.angle_dims].float()
        wanted = torch.cat(
            [
                self.standardizer(states)[..., self.non_angle_dims],
                torch.cos(angles),
                torch.sin(angles),
            ],
            dim=-1,
        )
        told: Tensor = self.read(z)
        return F.mse_loss(told.float(), wanted, reduction="none").mean((1, 2))


class AdaLNZeroBlock(ResidualStreamBlock):
    """Causal attention and MLP, each shifted, scaled and gated by what is done in a moment."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS, elementwise_affine=False)
        self.attn = Attention(dim, heads, causal=True)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.modulation = nn.Linear(dim, 6 * dim)

    def forward(self, x: Tensor, rotation: Rotation, condition: Tensor) -> Tensor:
        """[B, n, dim], conditioned on [B, n, dim] -> [B, n, dim]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation_params(condition).chunk(
            6, dim=-1
        )
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1, rotation)
        out: Tensor = x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return out

    def modulation_params(self, condition: Tensor) -> Tensor:
        """Shift, scale and gate of attention, then of the MLP: [B, n, dim] -> [B, n, 6 dim]."""
        out: Tensor = self.modulation(F.silu(condition))
        return out

    def step_with_cache(
        self,
        x: Tensor,
        rotation: Rotation,
        modulation_params: Tensor,
        kv_cache: KVCache,
        num_queries: int,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """The last `num_queries` of new tokens, as `Attention.step_with_cache` takes them;
        `modulation_params` of all."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation_params.chunk(6, dim=-1)
        inner = torch.addcmul(shift1, self.norm1(x), 1 + scale1)
        mixed = self.attn.step_with_cache(inner, rotation, kv_cache, num_queries, attn_mask)
        x = torch.addcmul(x[:, -num_queries:], gate1[:, -num_queries:], mixed)
        inner = torch.addcmul(shift2[:, -num_queries:], self.norm2(x), 1 + scale2[:, -num_queries:])
        return torch.addcmul(x, gate2[:, -num_queries:], self.mlp(inner))

    def zero_init(self) -> None:
        """Begin as nothing: all gates, shifts and scales at zero."""
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def output_projections(self) -> list[nn.Linear]:
        """Of attention and of the MLP."""
        return [self.attn.proj, self.mlp.fc2]
