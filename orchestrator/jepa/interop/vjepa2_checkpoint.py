"""vjepa2's own checkpoints: a .pt with `encoder`, `target_encoder` and `predictor`.

Read without running anything that is in it. The names are those of facebookresearch/vjepa2, with
DistributedDataParallel's and the wrapper's prefixes (`module.backbone.`) or without.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.jepa.interop.imported_model import (
    ImportedModel,
    ImportOverrides,
    TrainingClip,
    import_error,
    mask_tokens_for,
    validate_model_section,
)
from orchestrator.jepa.model_files import StateDict
from orchestrator.jepa.weights import describe_invalid_tensor
from orchestrator.job.config.masks import VJEPA2_MASKS
from orchestrator.job.config.model import ENCODER_SIZES

PREDICTOR_HEADS = 12
"""Of all predictors that were published; no tensor tells it."""

COOLDOWN_CLIP = TrainingClip(size=256, frames=64)
"""The clips that the published checkpoints ended with (arXiv 2506.09985, section 2.2)."""

_KEY_MAP = {
    "predictor_embed.": "embed.",
    "predictor_blocks.": "blocks.",
    "predictor_norm.": "norm.",
    "predictor_proj.": "proj.",
}
# Sine tables of models without rotary positions, which their loader leaves aside too.
_IGNORED_KEYS = ("pos_embed", "predictor_pos_embed")
_VJEPA21_PREFIXES = ("norms_block.", "video_mod_embed", "img_mod_embed", "patch_embed_img.")


def read_vjepa2_checkpoint(path: Path, overrides: ImportOverrides) -> ImportedModel:
    """The model of a .pt file. The encoder is the target encoder, where there is one.

    Raises:
        RequestError: it holds code, or anything else than a V-JEPA 2.
    """
    whole = _load(path)
    part = "target_encoder" if "target_encoder" in whole else "encoder"
    encoder, predictor = _tensors(path, whole, part), _tensors(path, whole, "predictor")
    odd = describe_invalid_tensor(
        {f"{part}.{k}": v for k, v in encoder.items()}
    ) or describe_invalid_tensor({f"predictor.{k}": v for k, v in predictor.items()})
    if odd:
        raise import_error(path, odd)
    if any(name.startswith(_VJEPA21_PREFIXES) for name in encoder):
        raise import_error(path, "a V-JEPA 2.1, whose levels and modality tokens are not read")
    weight = encoder.get("patch_embed.proj.weight")
    norm = encoder.get("norm.weight")
    patches = weight is not None and weight.ndim == 5 and weight.shape[1] == 3
    if weight is None or not patches or norm is None or norm.ndim != 1:
        raise import_error(
            path, f"its {part} is no video transformer over patches of three colours"
        )
    tokens = _pop_mask_tokens(path, predictor)
    shape = {
        "encoder": _published_size(path, encoder),
        "patch": weight.shape[-1],
        "tubelet": weight.shape[2],
        "predictor": {
            "depth": _depth(predictor),
            "dim": tokens.shape[-1],
            "heads": PREDICTOR_HEADS,
        },
        "rope": overrides.rope or "tiled",
    }
    encoder["patch_embed.proj.weight"] = weight.flatten(1)
    predictor["mask_tokens"] = mask_tokens_for(tokens, len(VJEPA2_MASKS))
    state = {f"encoder.{k}": v for k, v in encoder.items()}
    state |= {f"predictor.{k}": v for k, v in predictor.items()}
    return ImportedModel(
        path, validate_model_section(path, shape), overrides.apply_to(COOLDOWN_CLIP), state
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise import_error(path, f"cannot read it: {error.strerror}") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        code = f" ({found[1]})" if found else ""
        raise import_error(
            path, f"it holds code{code}, which is not run, or is no checkpoint of torch"
        ) from None
    except Exception as error:  # bytes that are no checkpoint raise anything
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise import_error(path, f"no checkpoint of torch: {why}") from None
    if not isinstance(whole, dict):
        raise import_error(path, "no checkpoint of vjepa2: not a dictionary")
    return whole


def _tensors(path: Path, whole: dict[str, Any], part: str) -> StateDict:
    """One module's tensors, under our names."""
    found = whole.get(part)
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise import_error(path, f"no checkpoint of vjepa2: no tensors under '{part}'")
    state: StateDict = {}
    for key, value in found.items():
        name = str(key).removeprefix("module.").removeprefix("backbone.")
        for theirs, ours in _KEY_MAP.items():
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        if name not in _IGNORED_KEYS:
            state[name] = value
    return state


def _pop_mask_tokens(path: Path, predictor: StateDict) -> Tensor:
    """Take the mask tokens [1, 1, dim] out of a predictor: [n, dim]."""
    names = [f"mask_tokens.{i}" for i in range(len(predictor))]
    tokens = [predictor.pop(name).flatten() for name in names if name in predictor]
    if not tokens or len({token.shape for token in tokens}) > 1:
        raise import_error(path, "its predictor has no mask tokens of one width")
    return torch.stack(tokens)


def _depth(state: StateDict) -> int:
    """Blocks of a stack."""
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def _published_size(path: Path, encoder: StateDict) -> str:
    """The published size of this width and depth: heads stand in no tensor."""
    width, depth = len(encoder["norm.weight"]), _depth(encoder)
    for name, size in ENCODER_SIZES.items():
        if (size["dim"], size["depth"]) == (width, depth):
            return name
    raise import_error(path, f"an encoder {width} wide and {depth} deep is of no published size")
