"""Encoder and predictor of VICReg for video: LeWorldModel's, built from the keys of `vicreg`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from orchestrator.jepa.objectives.lewm.predictor import (
    LeWMEncoder,
    LeWMPredictor,
    build_lewm_encoder,
    build_lewm_predictor,
)
from orchestrator.jepa.objectives.vicreg.config import VICReg

if TYPE_CHECKING:
    from orchestrator.jepa.model_config import ModelConfig


def rebuild_encoder(config: ModelConfig) -> LeWMEncoder:
    """The encoder of a saved model, freshly initialised."""
    keys = VICReg.model_validate(config.job["objective"]).lewm_keys()
    return build_lewm_encoder(config.model, keys, size=config.size, frames=config.frames)


def rebuild_predictor(
    config: ModelConfig, encoder: nn.Module, num_mask_tokens: int
) -> LeWMPredictor:
    """The predictor of a saved model, freshly initialised; it has no mask tokens."""
    keys = VICReg.model_validate(config.job["objective"]).lewm_keys()
    return build_lewm_predictor(config.model, keys, encoder=encoder, actions=config.actions)
