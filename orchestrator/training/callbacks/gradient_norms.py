"""Gradient norms by layer, under every ZeRO stage (`callbacks: [gradient-norms]`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from pydantic import BaseModel, PositiveInt
from torch import Tensor

from orchestrator.data.loader.batch import StepBatch
from orchestrator.training.callbacks.base import Callback
from orchestrator.training.engine.engine import Engine
from orchestrator.training.engine.step import StepResult

if TYPE_CHECKING:
    from orchestrator.training.trainer import Trainer

PREFIX = "gradient_norm/"
_LAYER = re.compile(r"(?:[^.]+\.)*?\d+(?=\.)|[^.]+(?:\.[^.]+(?=\.))?")


class GradientNorms(Callback):
    """Log the L2 norm of each layer's gradient, as AdamW applies it: after clipping.

    Where DeepSpeed keeps gradients differs by ZeRO stage, and they are gone after the step. AdamW's
    first moment tells them: m' = b m + (1 - b) g. A logged step costs a copy of this rank's moments
    in fp32, and one all-reduce of a number for each layer.
    """

    class Config(BaseModel, extra="forbid", frozen=True):
        """The keys beside `kind`."""

        every: PositiveInt = 10
        """Optimizer steps from one logged row to the next."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config or self.Config())
        self._before: list[Tensor] = []

    def on_step_begin(self, trainer: Trainer) -> None:
        """Keep the first moments of a step that will be logged."""
        if (trainer.step + 1) % self.config.every == 0:
            self._before = [shard.exp_avg.clone() for shard in trainer.engine.read_shards()]

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        """Log `gradient_norm/LAYER` of each layer; nothing where the step was not applied."""
        before, self._before = self._before, []
        if before and result.applied:
            for layer, norm in gradient_norms(trainer.engine, before).items():
                trainer.log(PREFIX + layer, norm)


@torch.no_grad()
def gradient_norms(engine: Engine, before: list[Tensor]) -> dict[str, float]:
    """The L2 norm of each layer's gradient in the step that has just been applied. A collective.

    Args:
        before: `exp_avg` of each of this rank's shards, as it was before the step.
    """
    shards, beta = engine.read_shards(), engine.job.optim.betas[0]
    layers = sorted({layer_of(one.name) for shard in shards for one in shard.gathered_ranges})
    row = {layer: number for number, layer in enumerate(layers)}
    squares = torch.zeros(len(layers), dtype=torch.float64, device=shards[0].exp_avg.device)
    for shard, moment in zip(shards, before, strict=True):
        gradient = (shard.exp_avg - beta * moment) / (1 - beta)
        for piece in shard.slices:
            part = gradient[piece.shard_offset : piece.shard_offset + piece.numel]
            squares[row[layer_of(piece.name)]] += part.double().square().sum()
    if engine.zero_stage > 0:  # else every rank holds all of them
        squares = squares.to(engine.device)
        dist.all_reduce(squares)
    return dict(zip(layers, squares.sqrt().tolist(), strict=True))


def layer_of(name: str) -> str:
    """A parameter's layer: up to the first number in its name, else its first two parts.

    `encoder.blocks.3.attn.qkv.weight` -> `encoder.blocks.3`, `encoder.patch_embed.proj.bias` ->
    `encoder.patch_embed`.
    """
    found = _LAYER.match(name)
    return found[0] if found else name
