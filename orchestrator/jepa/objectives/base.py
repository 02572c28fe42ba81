"""What a training objective is, to the engine that trains it.

An objective of your own is named by its import path (`objective.kind: package.module:Name`): a
subclass of `Objective` with a pydantic model `Config` of its keys, made by `Name(config, job)`.
It finds its encoder and predictor with `build_encoder` and `build_masked_predictor`.

A `Config` that is a subclass of `orchestrator.job.ObjectiveConfig` states what the rest needs to
know: what a step costs (`plan`), whether clips may differ in shape (mixtures), what to do about
collapse, and what builds its predictor again (evaluation while training, ranking of trials).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.jepa.rope import Grid
from orchestrator.jepa.transformer import Transformer
from orchestrator.job import MultiBlock

Masks = list[tuple[Tensor, Tensor]]
"""Per mask of the objective: context ids int64 [B, n_c] and target ids int64 [B, n_t]."""


@dataclass
class ObjectiveOutput:
    """What one forward gives."""

    loss: Tensor
    """float32 [B], one per clip; the engine weighs and averages."""

    features: Tensor
    """[B, n, dim], detached: the student's features of the first mask's context."""


class Objective(nn.Module):
    """The trained module as a whole: encoder, predictor and loss in one forward."""

    encoder: nn.Module
    """What is kept and judged after training."""

    averaged: str | None = None
    """Name of the submodule that an exponential-moving-average teacher follows, if any."""

    momentum: float | None = None
    """teacher = momentum * teacher + (1 - momentum) * student, after each applied step."""

    fixed_shapes: bool = True
    """Whether every batch has the same counts of tokens; only compiling asks."""

    def at_step(self, step: int) -> None:
        """Before the first forward of a step, counted from 0: whatever follows a schedule."""

    @torch.no_grad()
    def targets(self, teacher: nn.Module, video: Tensor) -> Tensor:
        """What the teacher says about every token, [B, 3, T, H, W] -> [B, N, dim]."""
        raise NotImplementedError

    def labels(self, keys: Sequence[str]) -> Tensor | None:
        """What the clips' keys say that the loss needs, [B, ...]; None: nothing."""
        return None

    def forward(self, video: Tensor, masks: Masks, targets: Any) -> ObjectiveOutput:
        """One loss per clip of a normalised video [B, 3, T, H, W].

        `targets` is what `targets` or `labels` gave, the clips' `ClipSets`, or None. An objective
        whose forward also takes `motion: ActionBatch | None = None` is told what was done in the
        clips (`orchestrator.jepa.action_batch`); None where the job has no `data.actions`.
        """
        raise NotImplementedError

    def set_activation_checkpointing(self, on: bool) -> None:
        """Recompute activations in the backward pass of every built-in transformer."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.set_activation_checkpointing(on)

    def compile_blocks(self) -> None:
        """torch.compile the blocks of every built-in transformer."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.compile_blocks(static_shapes=self.fixed_shapes)


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """[B, N, dim] at the ids [B, n] -> [B, n, dim]."""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


def token_grid_of(video: Tensor, patch: int, tubelet: int) -> Grid:
    """Tokens of a video [B, 3, T, H, W] along time, height and width: the sources of a training
    may differ in them."""
    frames, height, width = video.shape[2:]
    return frames // tubelet, height // patch, width // patch


def have_static_shapes(masks: Sequence[object]) -> bool:
    """Whether no mask cuts a batch to its smallest counts."""
    return not any(isinstance(mask, MultiBlock) and mask.truncate for mask in masks)
