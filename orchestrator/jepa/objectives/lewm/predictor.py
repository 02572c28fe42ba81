"""One embedding a moment, and what predicts the next one (LeWorldModel, arXiv 2603.19312).

The encoder reads every moment by itself and projects its patches; the predictor reads embeddings
forwards in time. Beside what is published:

- the mean over places, or all of them side by side, stands for a class token, which the vision
  transformer here has not;
- the projections have a layer norm inside where the published ones have a batch norm: that would
  depend on what a micro-batch holds, and the loss with it. Behind the last linear map nothing is
  normalised in either, so SIGReg can move every direction;
- no dropout in the predictor, for the same reason.

With `data.actions` every block of the predictor is conditioned on what is done in a moment
(`jepa/predictors/action_conditioning.py`); without, what follows depends on the moments alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.jepa.encoders.vision_transformer import build_encoder, encoder_width
from orchestrator.jepa.objectives.lewm.config import LeWM
from orchestrator.jepa.predictors.action_conditioning import ActionEmbedder, AdaLNZeroBlock
from orchestrator.jepa.rope import rotary_for_tokens
from orchestrator.jepa.transformer import INIT_STD, NORM_EPS, Block, KVCache, Transformer
from orchestrator.job import Actions, Model

if TYPE_CHECKING:
    from orchestrator.jepa.model_config import ModelConfig


class Projector(nn.Module):
    """Linear, norm, GELU, linear: its last map lets features take any spread."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.fc2 = nn.Linear(hidden, out)
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=INIT_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., out]."""
        out: Tensor = self.fc2(F.gelu(self.norm(self.fc1(x))))
        return out


class LeWMEncoder(nn.Module):
    """A clip's moments, each a token: the projected patches of a moment.

    Args:
        num_patches: patches of a moment that are projected side by side; 1: their mean is.
        out: numbers of an embedding.
    """

    def __init__(
        self, patches: nn.Module, tubelet: int, *, hidden: int, num_patches: int, out: int
    ) -> None:
        super().__init__()
        self.dim, self.tubelet, self.num_patches = out, tubelet, num_patches
        self.patches = patches
        self.projection = Projector(num_patches * encoder_width(patches), hidden, out)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised video [B, 3, T, H, W] -> [B, moments, dim], or the moments `keep` [B, n]."""
        if keep is not None:
            moments = x.reshape(len(x), 3, -1, self.tubelet, *x.shape[3:]).transpose(1, 2)
            clip = torch.arange(len(x), device=x.device)[:, None]
            x = moments[clip, keep].transpose(1, 2).flatten(2, 3)
        tokens: Tensor = self.patches(x, None)
        moments = tokens.view(len(x), x.shape[2] // self.tubelet, -1, tokens.shape[-1])
        read = moments.mean(2) if self.num_patches == 1 else moments.flatten(2)
        out: Tensor = self.projection(read)
        return out


class CausalBlock(Block):
    """A block whose tokens attend to themselves and to those before them."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__(dim, heads, mlp_ratio)
        self.attn.causal = True


class LeWMPredictor(Transformer):
    """From the embeddings of the moments so far to that of the next."""

    num_mask_tokens, num_horizons = 1, 1
    """One way to ask, and one moment ahead."""

    actions_are_state_deltas = False
    """States are not read."""

    def __init__(
        self,
        *,
        encoder_dim: int,
        hidden: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        act: Actions | None = None,
    ) -> None:
        super().__init__(dim, depth, heads, mlp_ratio, AdaLNZeroBlock if act else CausalBlock)
        self.embed = nn.Linear(encoder_dim, dim)
        self.init_weights()
        self.projection = Projector(dim, hidden, encoder_dim)
        self.action = ActionEmbedder(act, dim) if act else None
        for block in self.blocks:
            if isinstance(block, AdaLNZeroBlock):
                block.zero_init()

    def predict_one_step(self, z: Tensor, actions: Tensor | None = None) -> Tensor:
        """What follows each moment, from it and all before: [B, n, encoder_dim] -> the same.

        `actions` [B, n, D], where the model acts: what is done in each moment.
        """
        x = self.embed(z)
        rotation = rotary_for_tokens((x.shape[1], 1, 1), None, self.head_dim, x)
        done = () if self.action is None else (self.action(actions),)
        out: Tensor = self.projection(self.norm(self.run_blocks(x, rotation, *done)))
        return out

    def rollout_loss(self, z: Tensor, actions: Tensor | None, steps: int) -> Tensor:
        """Mean square error of what is predicted one moment ahead and, from those predictions,
        further ahead, up to `steps`: float32 [B].

        Args:
            z: embeddings of a clip's moments, [B, n, encoder_dim]; gradients flow into all.
            actions: what is done between them, [B, n - 1, D], where the model acts.
            steps: moments ahead, fewer than n.
        """
        known, losses = z, []
        for ahead in range(1, steps + 1):
            done = None if actions is None else actions[:, ahead - 1 :]
            known = self.predict_one_step(known[:, :-1], done)
            apart = F.mse_loss(known.float(), z[:, ahead:].float(), reduction="none")
            losses.append(apart.mean((1, 2)))
        return torch.stack(losses).mean(0)

    def rollout(self, z: Tensor, actions: Tensor, history: int) -> Tensor:
        """What follows moment by moment, each from the last `history` moments and predictions.

        Args:
            z: embeddings of the h moments so far, [B, h, encoder_dim].
            actions: what is done in each of m >= h moments, [B, m, D].
            history: most moments that are read at once: as many as in training.

        Returns:
            [B, m - h + 1, encoder_dim].
        """
        assert self.action is not None
        blocks = [block for block in self.blocks if isinstance(block, AdaLNZeroBlock)]
        told = self.action(actions)
        # What is done is known beforehand: each block's turns by it are made once.
        turns = [block.modulation_params(told) for block in blocks]
        cos, sin = rotary_for_tokens((history, 1, 1), None, self.head_dim, z)
        known, pasts = z, [KVCache() for _ in blocks]
        for now in range(z.shape[1], actions.shape[1] + 1):
            first = max(0, now - history)
            new = slice(first, now)
            if first or now == z.shape[1]:
                pasts = [KVCache() for _ in blocks]  # a window that moves is read anew
            else:
                new = slice(now - 1, now)
            count = new.stop - new.start
            x = self.embed(known[:, new])
            place = slice(new.start - first, new.stop - first)
            rotation = cos[:, place], sin[:, place]
            seen = torch.ones(count, count, dtype=torch.bool, device=z.device).tril()
            for block, turn, past in zip(blocks, turns, pasts, strict=True):
                asked = 1 if block is blocks[-1] else count
                mask = None if count == 1 else seen[-asked:]
                x = block.step_with_cache(x, rotation, turn[:, new], past, asked, mask)
            after = self.projection(self.norm(x))
            known = torch.cat([known, after.to(z.dtype)], dim=1)
        return known[:, z.shape[1] :]

    def predict_next(self, features: Tensor) -> Tensor:
        """The same as `CausalPredictor` gives it: [B, moments, 1, 1, encoder_dim]."""
        return self.predict_one_step(features)[:, :, None, None]

    def forward(self, z: Tensor, context: Tensor, target: Tensor, mask: int = 0) -> Tensor:
        """All that follows the first moments, beyond the next one from predictions.

        Args:
            z: embeddings of the first moments, [B, n_c, encoder_dim].
            context: their ids int64 [B, n_c]: 0 to n_c - 1.
            target: the ids that follow, int64 [B, n_t].
            mask: 0.

        Returns:
            [B, n_t, encoder_dim].
        """
        known = z
        for _ in range(target.shape[1]):
            known = torch.cat([known, self.predict_one_step(known)[:, -1:].to(z.dtype)], dim=1)
        return known[:, z.shape[1] :]


def build_lewm_encoder(model: Model, config: LeWM, *, size: int, frames: int) -> LeWMEncoder:
    """The job's encoder with a projection behind it."""
    patches = build_encoder(model, size=size, frames=frames)
    return LeWMEncoder(
        patches,
        model.tubelet,
        hidden=config.hidden,
        num_patches=(size // model.patch) ** 2 if config.pool == "places" else 1,
        out=config.embed or encoder_width(patches),
    )


def build_lewm_predictor(
    model: Model, config: LeWM, *, encoder: nn.Module, actions: Actions | None = None
) -> LeWMPredictor:
    """The predictor of a job's `model` for embeddings of width `encoder.dim`."""
    return LeWMPredictor(
        encoder_dim=encoder_width(encoder),
        hidden=config.hidden,
        act=actions,
        **model.predictor.model_dump(),
    )


def rebuild_encoder(config: ModelConfig) -> LeWMEncoder:
    """The encoder of a saved model, freshly initialised."""
    keys = LeWM.model_validate(config.job["objective"])
    return build_lewm_encoder(config.model, keys, size=config.size, frames=config.frames)


def rebuild_predictor(
    config: ModelConfig, encoder: nn.Module, num_mask_tokens: int
) -> LeWMPredictor:
    """The predictor of a saved model, freshly initialised; it has no mask tokens."""
    keys = LeWM.model_validate(config.job["objective"])
    return build_lewm_predictor(config.model, keys, encoder=encoder, actions=config.actions)
