"""What a saved model is made of: its config, and its modules as fresh as they were at first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from pydantic import PositiveInt, field_validator
from torch import nn

from orchestrator.jepa.encoders.vision_transformer import build_encoder
from orchestrator.job import Actions, Model, TrainJob, import_component, job_dict
from orchestrator.job.config.base import CustomComponent, Section
from orchestrator.job.config.objective import objective_config_class
from orchestrator.job.config.objective_base import (
    MODEL_CAPABILITIES,
    ObjectiveConfig,
    UnstatedObjective,
)
from orchestrator.job.loading.former_keys import with_present_names


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
    """Whatever the writer knew besides: the checkpoint, the run, and what a user's own objective
    states of its models (`capabilities`), so that they load where it cannot be imported."""

    @field_validator("job")
    @classmethod
    def _present_names(cls, job: dict[str, Any]) -> dict[str, Any]:
        return with_present_names(job, TrainJob)  # of a model that an earlier version saved

    @classmethod
    def from_job(cls, job: TrainJob, **extra: Any) -> ModelConfig:
        """That of the model which a job trains."""
        if isinstance(job.objective, CustomComponent) and not isinstance(
            job.objective_config, UnstatedObjective
        ):
            extra["capabilities"] = _capabilities_to_save(job.objective_config)
        return cls(
            model=job.model,
            size=job.data.size,
            frames=job.data.frames,
            objective=job.objective.kind,
            job=job_dict(job),
            extra=extra,
        )

    @property
    def objective_config_class(self) -> type[ObjectiveConfig]:
        """The objective's capabilities."""
        stated = self.extra.get("capabilities")
        if stated is None:
            return objective_config_class(self.objective)
        return _saved_capabilities(tuple(sorted(stated.items())))

    @property
    def actions(self) -> Actions | None:
        """What the model was told of actions; None where its objective reads none."""
        reads = self.objective_config_class.reads_actions
        act = self.job["data"].get("actions") if reads else None
        return None if act is None else Actions.model_validate(act)

    @property
    def tubelet(self) -> int:
        """Frames of a timestep."""
        return self.objective_config_class.tubelet_of(self.model.tubelet)

    def token_grid_of(self, frames: int) -> tuple[int, int, int]:
        """The tokens that `frames` frames become: patches, or one a timestep."""
        single = self.objective_config_class.one_token_per_timestep
        side = 1 if single else self.size // self.model.patch
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
) -> tuple[nn.Module, nn.Module | None]:
    """Encoder and predictor of a model's shape that have learnt nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_model_encoder(config)
        if not config.objective_config_class.keeps_predictor():
            return encoder, None
        return encoder, build_model_predictor(config, encoder, _num_masks(config))


def build_model_encoder(config: ModelConfig) -> nn.Module:
    """The encoder of a model, freshly initialised."""
    path = config.objective_config_class.encoder_builder
    if path is None:
        return build_encoder(config.model, size=config.size, frames=config.frames)
    encoder: nn.Module = import_component(path)(config)
    return encoder


def build_model_predictor(
    config: ModelConfig, encoder: nn.Module, num_mask_tokens: int
) -> nn.Module:
    """The predictor of a model whose objective keeps one, freshly initialised."""
    path = config.objective_config_class.predictor_builder
    assert path is not None
    predictor: nn.Module = import_component(path)(config, encoder, num_mask_tokens)
    return predictor


def _num_masks(config: ModelConfig) -> int:
    """Masks of a step of the training."""
    stated = config.extra.get("capabilities")
    masks = config.job["objective"].get("masks", ())
    return len(masks) if stated is None else int(stated["num_masks"])


def _capabilities_to_save(config: ObjectiveConfig) -> dict[str, Any]:
    """What a saved model needs of its objective."""
    stated = {name: getattr(config, name) for name in MODEL_CAPABILITIES}
    return {**stated, "num_masks": len(config.mask_configs)}


@cache
def _saved_capabilities(stated: tuple[tuple[str, Any], ...]) -> type[ObjectiveConfig]:
    """As they were stated when the model was saved."""
    known = {name: value for name, value in stated if name in MODEL_CAPABILITIES}
    return type("SavedCapabilities", (ObjectiveConfig,), {**known, "__module__": __name__})
