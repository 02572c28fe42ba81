"""What a saved model is made of: its config, and its modules as fresh as they were at first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import PositiveInt, field_validator
from torch import nn

from orchestrator.jepa.encoders.vision_transformer import build_encoder, encoder_width
from orchestrator.jepa.objectives.causal.predictor import CausalPredictor, build_causal_predictor
from orchestrator.jepa.objectives.dynamics.predictor import (
    RecurrentPredictor,
    build_recurrent_predictor,
)
from orchestrator.jepa.objectives.lewm.predictor import (
    LeWMPredictor,
    build_lewm_encoder,
    build_lewm_predictor,
)
from orchestrator.jepa.objectives.vjepa2ac.predictor import (
    ActionConditionedPredictor,
    build_action_conditioned_predictor,
)
from orchestrator.jepa.predictors.masked import MaskedPredictor, build_masked_predictor
from orchestrator.job import Actions, LeWM, Model, TrainJob
from orchestrator.job.config.base import Section
from orchestrator.job.loading.former_keys import with_present_names

KEEPS_PREDICTOR = ("vjepa2", "lejepa", "lewm", "pixels", "causal", "dynamics", "vjepa2ac")
"""Objectives whose model keeps a built-in predictor. A student of a frozen teacher keeps none:
it says what the teacher's features will be, and the teacher is not part of the model."""

ACTION_CONDITIONED = ("lewm", "vjepa2ac")
"""Objectives that read actions, where the job has `data.actions`."""

WITHOUT_MASK_TOKENS = ("lewm", "causal", "dynamics", "vjepa2ac")
"""Objectives whose predictor reads time forwards, and has no mask tokens."""

AnyPredictor = (
    MaskedPredictor
    | CausalPredictor
    | LeWMPredictor
    | RecurrentPredictor
    | ActionConditionedPredictor
)


class ModelConfig(Section):
    """What `config.json` holds: enough to build the model again, and where it came from."""

    format: Literal[1] = 1
    """Layout of the folder."""

    model: Model
    """Encoder, predictor, patch and tubelet."""

    size: PositiveInt
    """Pixels of the square that the model was trained on."""

    frames: PositiveInt
    """Frames of a clip that the model was trained on."""

    objective: str
    """Kind of the objective."""

    job: dict[str, Any]
    """The whole training job, for the record."""

    extra: dict[str, Any]
    """Whatever the writer knew besides: the checkpoint, the run."""

    @field_validator("job")
    @classmethod
    def _present_names(cls, job: dict[str, Any]) -> dict[str, Any]:
        return with_present_names(job, TrainJob)  # of a model that an earlier version saved

    @property
    def actions(self) -> Actions | None:
        """What the model was told of actions; None where its objective reads none."""
        act = self.job["data"].get("actions") if self.objective in ACTION_CONDITIONED else None
        return None if act is None else Actions.model_validate(act)

    @property
    def tubelet(self) -> int:
        """Frames of a moment; V-JEPA 2-AC encodes every frame by itself."""
        return 1 if self.objective == "vjepa2ac" else self.model.tubelet

    def token_grid_of(self, frames: int) -> tuple[int, int, int]:
        """The tokens that `frames` frames become: patches, or one a moment for LeWorldModel."""
        side = 1 if self.objective == "lewm" else self.size // self.model.patch
        return frames // self.tubelet, side, side


@dataclass(frozen=True)
class ClipShape:
    """What a model looks at: a clip of video, and the grid of tokens that it becomes."""

    size: int
    """Pixels of the square picture."""

    frames: int
    fps: float
    tubelet: int
    """Frames of a token."""

    grid: tuple[int, int, int]
    """Tokens over time, height and width; token (t * H + y) * W + x."""

    @property
    def tokens_per_timestep(self) -> int:
        """Tokens of one moment."""
        return self.grid[1] * self.grid[2]


def randomly_initialized_modules(
    config: ModelConfig, seed: int
) -> tuple[nn.Module, AnyPredictor | None]:
    """Encoder and predictor of a model's shape that have learnt nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_model_encoder(config)
        if config.objective not in KEEPS_PREDICTOR:
            return encoder, None
        masks = len(config.job["objective"].get("masks", ()))
        return encoder, build_model_predictor(config, encoder, masks)


def build_model_encoder(config: ModelConfig) -> nn.Module:
    """The encoder of a model, freshly initialised."""
    if config.objective == "lewm":
        lewm = LeWM.model_validate(config.job["objective"])
        return build_lewm_encoder(config.model, lewm, size=config.size, frames=config.frames)
    return build_encoder(config.model, size=config.size, frames=config.frames)


def build_model_predictor(
    config: ModelConfig, encoder: nn.Module, num_mask_tokens: int
) -> AnyPredictor:
    """The built-in predictor of a model, freshly initialised, with `masks` mask tokens."""
    tubelet, grid = config.model.tubelet, config.token_grid_of(config.frames)
    if config.objective == "lewm":
        lewm = LeWM.model_validate(config.job["objective"])
        return build_lewm_predictor(config.model, lewm, encoder=encoder, actions=config.actions)
    if config.objective == "causal":
        horizons = config.job["objective"]["horizons"]
        return build_causal_predictor(config.model, encoder=encoder, grid=grid, horizons=horizons)
    if config.objective == "dynamics":
        horizons = config.job["objective"]["horizons"]
        return build_recurrent_predictor(config.model, grid=grid, horizons=horizons)
    if config.objective == "vjepa2ac":
        assert config.actions is not None
        width = encoder_width(encoder)
        return build_action_conditioned_predictor(
            config.model, encoder_dim=width, side=grid[1], act=config.actions
        )
    out = 3 * tubelet * config.model.patch**2 if config.objective == "pixels" else None
    return build_masked_predictor(
        config.model, encoder=encoder, grid=grid, mask_tokens=num_mask_tokens, output_dim=out
    )
