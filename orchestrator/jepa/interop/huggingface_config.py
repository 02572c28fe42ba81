"""Hugging Face's `VJEPA2Config`: read, checked, and as a model of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from orchestrator.jepa.interop.imported_model import import_error, validate_model_section
from orchestrator.jepa.model_files import CONFIG_FILE
from orchestrator.jepa.transformer import NORM_EPS
from orchestrator.jepa.weights import why_not_json
from orchestrator.job import Model
from orchestrator.job.config.model import Rope
from orchestrator.job.config.objective import OBJECTIVES, objective_config_class

ARCHITECTURE = "VJEPA2Model"

EXPORTABLE_OBJECTIVES = tuple(
    kind for kind in OBJECTIVES if objective_config_class(kind).huggingface_exportable
)
"""Those that leave an encoder and a predictor of its features, and nothing more."""


class OrchestratorMetadata(BaseModel):
    """What we write into Hugging Face's config beside its own keys, which it keeps."""

    model_config = ConfigDict(extra="forbid")

    fps: PositiveFloat
    """Frames per second of the clips."""

    objective: dict[str, Any]
    """The objective that it was trained by, with a mask for each mask token."""

    rope: Rope = "tiled"
    """Only `tiled` is `VJEPA2Model`'s."""

    @model_validator(mode="after")
    def _known_kind(self) -> OrchestratorMetadata:
        if self.objective.get("kind") not in EXPORTABLE_OBJECTIVES:
            raise ValueError(f"objective.kind is not one of {', '.join(EXPORTABLE_OBJECTIVES)}")
        return self


class HFConfig(BaseModel):
    """`VJEPA2Config`, as far as it decides what is computed; defaults as there."""

    model_config = ConfigDict(extra="ignore")

    patch_size: PositiveInt = 16
    crop_size: PositiveInt = 256
    frames_per_clip: PositiveInt = 64
    tubelet_size: PositiveInt = 2
    hidden_size: PositiveInt = 1024
    in_chans: Literal[3] = 3
    num_attention_heads: PositiveInt = 16
    num_hidden_layers: PositiveInt = 24
    mlp_ratio: PositiveFloat = 4.0
    layer_norm_eps: Annotated[float, Field(ge=NORM_EPS, le=NORM_EPS)] = NORM_EPS
    qkv_bias: Literal[True] = True
    hidden_act: Literal["gelu"] = "gelu"
    pred_hidden_size: PositiveInt = 384
    pred_num_attention_heads: PositiveInt = 12
    pred_num_hidden_layers: PositiveInt = 12
    pred_num_mask_tokens: PositiveInt = 10
    pred_mlp_ratio: PositiveFloat = 4.0
    orchestrator: OrchestratorMetadata | None = None


def read_config(folder: Path) -> HFConfig:
    """The config of a folder.

    Raises:
        RequestError: it is of another architecture, or has a part that ours has not.
    """
    path = folder / CONFIG_FILE
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise import_error(path, f"cannot read it: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise import_error(path, why_not_json(path)) from None
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind != "vjepa2":
        raise import_error(
            path, f"a model of type '{kind}', not 'vjepa2'" if kind else "no model_type in it"
        )
    for name in raw.get("architectures") or [ARCHITECTURE]:
        if name != ARCHITECTURE:
            raise import_error(
                path, f"a {name}, not a {ARCHITECTURE}", hint="save its `.vjepa2` by itself"
            )
    try:
        return HFConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise import_error(
            path, f"no model of ours has {key} {first['input']!r}: {first['msg']}"
        ) from None


def model_section_from(folder: Path, config: HFConfig) -> Model:
    """The encoder and predictor that it describes.

    Raises:
        RequestError: no model of ours has these numbers.
    """
    shape = {
        "encoder": {
            "dim": config.hidden_size,
            "depth": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "mlp_ratio": config.mlp_ratio,
        },
        "patch": config.patch_size,
        "tubelet": config.tubelet_size,
        "predictor": {
            "dim": config.pred_hidden_size,
            "depth": config.pred_num_hidden_layers,
            "heads": config.pred_num_attention_heads,
            "mlp_ratio": config.pred_mlp_ratio,
        },
    }
    return validate_model_section(folder, shape)
