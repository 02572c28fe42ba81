"""A model made elsewhere, on its way in: checked as a whole, then written as one of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.jepa.action_conditioned import randomly_initialized_model
from orchestrator.jepa.model_config import ModelConfig
from orchestrator.jepa.model_files import StateDict, state_dict_mismatch, write_model
from orchestrator.jepa.world_model import WorldModel
from orchestrator.job import VJEPA2, Model
from orchestrator.job.config.model import Rope
from orchestrator.paths import require_writable

VJEPA2_FPS = 4.0
"""Frames per second that V-JEPA 2 trained at (arXiv 2506.09985, section 2.2)."""


@dataclass(frozen=True)
class TrainingClip:
    """What a model looked at in training, as far as its maker says it."""

    size: int
    """Pixels of the square."""

    frames: int
    fps: float = VJEPA2_FPS


@dataclass(frozen=True)
class ImportOverrides:
    """What the person who brings a model in says of it; None: what its files say."""

    size: int | None = None
    frames: int | None = None
    fps: float | None = None
    rope: Rope | None = None

    def apply_to(self, clip: TrainingClip) -> TrainingClip:
        """The clip with what was wished for put in."""
        return TrainingClip(
            self.size or clip.size, self.frames or clip.frames, self.fps or clip.fps
        )


@dataclass(frozen=True)
class ImportedModel:
    """A model under our names, and where it came from."""

    source: Path
    model: Model
    training_clip: TrainingClip
    state_dict: StateDict
    objective: dict[str, Any] = field(
        default_factory=lambda: VJEPA2().model_dump(mode="json", by_alias=True)
    )
    """The objective that it was trained by, with its masks; V-JEPA 2's own unless told."""

    layout: str = "published"
    """How it lay there: `published` or `huggingface`."""

    def to_model_config(self) -> ModelConfig:
        """What our `config.json` says of it: only what is known of its training."""
        clip = self.training_clip
        data = {"frames": clip.frames, "fps": clip.fps, "size": clip.size}
        shape = self.model.model_dump(mode="json", by_alias=True)
        return ModelConfig(
            model=self.model,
            size=clip.size,
            frames=clip.frames,
            objective=str(self.objective["kind"]),
            job={"data": data, "model": shape, "objective": self.objective},
            extra={"imported": self.layout, "file": self.source.name},
        )


def write_imported_model(foreign: ImportedModel, folder: Path) -> ModelConfig:
    """Write a folder that `load_folder` and `model.from` take; returns its config.

    Raises:
        RequestError: tensors are missing, left over or of another shape; nothing was written.
    """
    check_folder_is_empty(folder)
    clip, model = foreign.training_clip, foreign.model
    if clip.size % model.patch or clip.frames % model.tubelet:
        raise import_error(
            foreign.source,
            f"clips of {clip.frames} x {clip.size} pixels do not divide into tokens of"
            f" {model.tubelet} x {model.patch}",
            hint="give --size and --frames",
        )
    config = foreign.to_model_config()
    odd = state_dict_mismatch(foreign.state_dict, model_on_meta_device(config).state_dict())
    if odd:
        raise import_error(
            foreign.source, f"its tensors are not those of a V-JEPA 2 of this shape: {odd}"
        )
    write_model(folder, foreign.state_dict, config)
    return config


def model_on_meta_device(config: ModelConfig) -> WorldModel:
    """A model's names and shapes, without memory."""
    with torch.device("meta"):
        return randomly_initialized_model(config, seed=0)


def mask_tokens_for(tokens: Tensor, kinds: int) -> Tensor:
    """A mask token for each of our kinds of mask, [n, dim] -> [kinds, dim].

    V-JEPA 2 picks its token by the length of the clip, so that all kinds of mask share the
    first and the others keep the zeros they began with; ours has one token per kind. A kind takes
    the token of its number, or the first where there is none or it was never trained.
    """
    rows = [tokens[i] if i < len(tokens) and tokens[i].any() else tokens[0] for i in range(kinds)]
    return torch.stack(rows)


def validate_model_section(source: Path, shape: dict[str, Any]) -> Model:
    """The model of these numbers.

    Raises:
        RequestError: no model of ours has them.
    """
    try:
        return Model.model_validate(shape)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise import_error(source, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def check_folder_is_empty(folder: Path) -> None:
    """Raises: RequestError: there is something in the folder already, or it cannot be written."""
    there = os.path.lexists(folder)
    if there and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(
            "there is something here already", where=str(folder), hint="name a new folder"
        )
    require_writable(folder.absolute(), where=str(folder))


def import_error(source: Path, what: str, hint: str = "") -> RequestError:
    """What is said of a foreign model that is not taken."""
    known = "nothing was written; what is read: the folder of a VJEPA2Model, and vjepa2's .pt"
    return RequestError(what, where=str(source), hint=hint or known)
