"""Hugging Face's folder of a V-JEPA 2 (`VJEPA2Model`), in and out.

transformers itself is not needed. It knows V-JEPA 2's `tiled` rotary positions alone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from orchestrator.errors import RequestError
from orchestrator.jepa.encoders.vision_transformer import VisionTransformer
from orchestrator.jepa.interop.huggingface_config import (
    ARCHITECTURE,
    EXPORTABLE_OBJECTIVES,
    HFConfig,
    OrchestratorMetadata,
    model_section_from,
    read_config,
)
from orchestrator.jepa.interop.imported_model import (
    VJEPA2_FPS,
    ImportedModel,
    ImportOverrides,
    TrainingClip,
    check_folder_is_empty,
    import_error,
    mask_tokens_for,
    model_on_meta_device,
)
from orchestrator.jepa.model_files import (
    CONFIG_FILE,
    ModelError,
    StateDict,
    WorldModel,
    state_dict_mismatch,
    write_text,
    write_weights,
)
from orchestrator.jepa.pixel_normalization import IMAGENET_MEAN, IMAGENET_STD
from orchestrator.jepa.predictors.masked import MaskedPredictor
from orchestrator.jepa.transformer import NORM_EPS
from orchestrator.jepa.weights import read_sharded_weights
from orchestrator.job import ViTConfig
from orchestrator.job.config.masks import VJEPA2_MASKS

MASK_TOKENS_KEY = "predictor.mask_tokens"

PREPROCESSOR_FILE = "video_preprocessor_config.json"

_KEY_MAP = (
    ("encoder.patch_embed.", "encoder.embeddings.patch_embeddings."),
    ("predictor.embed.", "predictor.embeddings.predictor_embeddings."),
    ("predictor.mask_tokens", "predictor.embeddings.mask_tokens"),
    ("encoder.norm.", "encoder.layernorm."),
    ("predictor.norm.", "predictor.layernorm."),
    (".blocks.", ".layer."),
    (".attn.", ".attention."),
)


def read_huggingface(folder: Path, overrides: ImportOverrides) -> ImportedModel:
    """The model of a folder that `VJEPA2Model.save_pretrained` or `export_huggingface` wrote.

    Raises:
        RequestError: it holds another architecture, another variant, or other tensors.
    """
    config = read_config(folder)
    own = config.orchestrator
    if "paired" in (overrides.rope, own.rope if own else None):
        raise import_error(folder, f"rope 'paired' is V-JEPA 2.1's; {ARCHITECTURE} rotates 'tiled'")
    clip = TrainingClip(config.crop_size, config.frames_per_clip, own.fps if own else VJEPA2_FPS)
    foreign = ImportedModel(
        folder, model_section_from(folder, config), clip, {}, layout="huggingface"
    )
    if own is not None:
        foreign = replace(foreign, objective=own.objective)
    found = _read_tensors(folder, config)
    wanted = model_on_meta_device(foreign.to_model_config()).state_dict()
    patch, tubelet = foreign.model.patch, foreign.model.tubelet
    theirs = _check_tensors(folder, found, to_huggingface(wanted, patch, tubelet), config)
    state: StateDict = {}
    for name, like in wanted.items():
        parts = [theirs[their] for their in to_huggingface({name: like}, patch, tubelet)]
        state[name] = torch.cat(parts).reshape(-1, *like.shape[1:])
    if own is None:
        tokens = mask_tokens_for(state[MASK_TOKENS_KEY], len(VJEPA2_MASKS))
        state[MASK_TOKENS_KEY] = tokens
    return replace(foreign, state_dict=state, training_clip=overrides.apply_to(clip))


def export_huggingface(model: WorldModel, folder: Path, card: str) -> None:
    """Write a folder that `VJEPA2Model.from_pretrained` loads strictly, with `card` as README.md.

    Raises:
        RequestError: `VJEPA2Model` has no place for the model, or the folder is not empty.
    """
    check_folder_is_empty(folder)
    config = _huggingface_config(model)
    shape = model.config.model
    state = to_huggingface(model.state_dict(), shape.patch, shape.tubelet)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, state)
    write_text(folder / PREPROCESSOR_FILE, _json(_processor(model.config.size)))
    write_text(folder / "README.md", card)
    write_text(folder / CONFIG_FILE, _json(config))


def to_huggingface(state: StateDict, patch: int, tubelet: int) -> StateDict:
    """Our tensors under Hugging Face's names: q, k and v apart, patches as a convolution's."""
    out: StateDict = {}
    for ours, value in state.items():
        name = ours
        for mine, theirs in _KEY_MAP:
            name = name.replace(mine, theirs)
        if ".qkv." in name:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            out |= {name.replace(".qkv.", f".{part}."): piece for part, piece in parts}
        elif ours == "encoder.patch_embed.proj.weight":
            out[name] = value.view(len(value), 3, tubelet, patch, patch)
        elif ours == MASK_TOKENS_KEY:
            out[name] = value[:, None, None]
        else:
            out[name] = value
    return out


def _read_tensors(folder: Path, config: HFConfig) -> StateDict:
    """The folder's tensors, at least as many as the config has blocks."""
    try:
        found = read_sharded_weights(folder)
    except ModelError as error:
        raise import_error(Path(error.where), error.what, error.hint) from None
    blocks = config.num_hidden_layers + config.pred_num_hidden_layers
    if len(found) < blocks:  # nobody builds a model of a billion blocks to find that out
        raise import_error(
            folder, f"its {CONFIG_FILE} has {blocks:,} blocks, its weights {len(found):,} tensors"
        )
    return found


def _check_tensors(
    folder: Path, found: StateDict, wanted: StateDict, config: HFConfig
) -> StateDict:
    """The folder's tensors, each there and of its shape."""
    (name,) = to_huggingface({MASK_TOKENS_KEY: torch.empty(1, 1)}, 1, 1)
    if config.orchestrator is None:  # ours has a token for each mask, theirs a number of its own
        many = wanted[name].new_empty(config.pred_num_mask_tokens, *wanted[name].shape[1:])
        wanted = {**wanted, name: many}
    odd = state_dict_mismatch(found, wanted)
    if odd:
        raise import_error(folder, f"its tensors are not those of its {CONFIG_FILE}: {odd}")
    return found


def _huggingface_config(model: WorldModel) -> dict[str, Any]:
    """Hugging Face's config of a model.

    Raises:
        RequestError: it has no place for the model.
    """
    config, encoder, predictor = model.config, model.encoder, model.predictor
    shape = config.model
    reason = ""
    if config.objective not in EXPORTABLE_OBJECTIVES:
        reason = f"it was trained by '{config.objective}', of {', '.join(EXPORTABLE_OBJECTIVES)}"
    elif type(encoder) is not VisionTransformer or encoder.attention != "clip":
        reason = "its encoder is not V-JEPA 2's"
    elif shape.rope != "tiled":
        reason = f"rope '{shape.rope}' is V-JEPA 2.1's, and its features would be others"
    if reason:
        raise RequestError(
            f"{ARCHITECTURE} has no place for this model: {reason}", where="--format huggingface"
        )
    assert isinstance(encoder, VisionTransformer)
    assert isinstance(predictor, MaskedPredictor)
    assert isinstance(shape.encoder, ViTConfig)
    objective = config.job["objective"]
    own = OrchestratorMetadata(fps=model.clip.fps, objective=objective)
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "vjepa2",
        "dtype": "float32",
        "crop_size": config.size,
        "frames_per_clip": config.frames,
        "patch_size": shape.patch,
        "tubelet_size": shape.tubelet,
        "in_chans": 3,
        "hidden_size": encoder.dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": encoder.heads,
        "mlp_ratio": shape.encoder.mlp_ratio,
        "layer_norm_eps": NORM_EPS,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "pred_hidden_size": shape.predictor.dim,
        "pred_num_hidden_layers": shape.predictor.depth,
        "pred_num_attention_heads": shape.predictor.heads,
        "pred_mlp_ratio": shape.predictor.mlp_ratio,
        "pred_num_mask_tokens": predictor.num_mask_tokens,
        "pred_zero_init_mask_tokens": True,
        "orchestrator": own.model_dump(mode="json"),
    }


def _processor(size: int) -> dict[str, Any]:
    """How `VJEPA2VideoProcessor` makes a model's input: the shorter side to 8/7 of the size, the
    middle square, ImageNet's mean and spread."""
    return {
        "video_processor_type": "VJEPA2VideoProcessor",
        "do_resize": True,
        "size": {"shortest_edge": int(size * 256 / 224)},
        "resample": 2,  # PIL's bilinear
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
