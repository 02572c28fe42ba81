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
    OBJECTIVES,
    HFConfig,
    Own,
    model_of,
    read_config,
)
from orchestrator.jepa.interop.imported_model import (
    FPS,
    Clip,
    Foreign,
    Wishes,
    mask_tokens_for,
    outline_of,
    refusal,
    refuse_filled,
)
from orchestrator.jepa.model_files import (
    CONFIG,
    ModelError,
    State,
    WorldModel,
    misfit,
    write_text,
    write_weights,
)
from orchestrator.jepa.pixel_normalization import MEAN, STD
from orchestrator.jepa.predictors.masked import Predictor
from orchestrator.jepa.transformer import NORM_EPS
from orchestrator.jepa.weights import read_sharded_weights
from orchestrator.job import Encoder
from orchestrator.job.config.masks import VJEPA2_MASKS

TOKENS = "predictor.mask_tokens"

PROCESSOR = "video_preprocessor_config.json"

_NAMES = (
    ("encoder.patch_embed.", "encoder.embeddings.patch_embeddings."),
    ("predictor.embed.", "predictor.embeddings.predictor_embeddings."),
    ("predictor.mask_tokens", "predictor.embeddings.mask_tokens"),
    ("encoder.norm.", "encoder.layernorm."),
    ("predictor.norm.", "predictor.layernorm."),
    (".blocks.", ".layer."),
    (".attn.", ".attention."),
)


def read_huggingface(folder: Path, wishes: Wishes) -> Foreign:
    """The model of a folder that `VJEPA2Model.save_pretrained` or `export_huggingface` wrote.

    Raises:
        RequestError: it holds another architecture, another variant, or other tensors.
    """
    config = read_config(folder)
    own = config.orchestrator
    if "paired" in (wishes.rope, own.rope if own else None):
        raise refusal(folder, f"rope 'paired' is V-JEPA 2.1's; {ARCHITECTURE} rotates 'tiled'")
    clip = Clip(config.crop_size, config.frames_per_clip, own.fps if own else FPS)
    foreign = Foreign(folder, model_of(folder, config), clip, {}, layout="huggingface")
    if own is not None:
        foreign = replace(foreign, objective=own.objective)
    found = _read_tensors(folder, config)
    wanted = outline_of(foreign.config()).state_dict()
    patch, tubelet = foreign.model.patch, foreign.model.tubelet
    theirs = _checked(folder, found, to_huggingface(wanted, patch, tubelet), config)
    state: State = {}
    for name, like in wanted.items():
        parts = [theirs[their] for their in to_huggingface({name: like}, patch, tubelet)]
        state[name] = torch.cat(parts).reshape(-1, *like.shape[1:])
    if own is None:
        tokens = mask_tokens_for(state[TOKENS], len(VJEPA2_MASKS))
        state[TOKENS] = tokens
    return replace(foreign, state=state, clip=wishes.of(clip))


def export_huggingface(model: WorldModel, folder: Path, card: str) -> None:
    """Write a folder that `VJEPA2Model.from_pretrained` loads strictly, with `card` as README.md.

    Raises:
        RequestError: `VJEPA2Model` has no place for the model, or the folder is not empty.
    """
    refuse_filled(folder)
    config = _config_of(model)
    shape = model.config.model
    state = to_huggingface(model.state_dict(), shape.patch, shape.tubelet)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, state)
    write_text(folder / PROCESSOR, _json(_processor(model.config.size)))
    write_text(folder / "README.md", card)
    write_text(folder / CONFIG, _json(config))


def to_huggingface(state: State, patch: int, tubelet: int) -> State:
    """Our tensors under Hugging Face's names: q, k and v apart, patches as a convolution's."""
    out: State = {}
    for ours, value in state.items():
        name = ours
        for mine, theirs in _NAMES:
            name = name.replace(mine, theirs)
        if ".qkv." in name:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            out |= {name.replace(".qkv.", f".{part}."): piece for part, piece in parts}
        elif ours == "encoder.patch_embed.proj.weight":
            out[name] = value.view(len(value), 3, tubelet, patch, patch)
        elif ours == TOKENS:
            out[name] = value[:, None, None]
        else:
            out[name] = value
    return out


def _read_tensors(folder: Path, config: HFConfig) -> State:
    """The folder's tensors, at least as many as the config has blocks."""
    try:
        found = read_sharded_weights(folder)
    except ModelError as error:
        raise refusal(Path(error.where), error.what, error.mend) from None
    blocks = config.num_hidden_layers + config.pred_num_hidden_layers
    if len(found) < blocks:  # nobody builds a model of a billion blocks to find that out
        raise refusal(
            folder, f"its {CONFIG} has {blocks:,} blocks, its weights {len(found):,} tensors"
        )
    return found


def _checked(folder: Path, found: State, wanted: State, config: HFConfig) -> State:
    """The folder's tensors, each there and of its shape."""
    (name,) = to_huggingface({TOKENS: torch.empty(1, 1)}, 1, 1)
    if config.orchestrator is None:  # ours has a token for each mask, theirs a number of its own
        many = wanted[name].new_empty(config.pred_num_mask_tokens, *wanted[name].shape[1:])
        wanted = {**wanted, name: many}
    odd = misfit(found, wanted)
    if odd:
        raise refusal(folder, f"its tensors are not those of its {CONFIG}: {odd}")
    return found


def _config_of(model: WorldModel) -> dict[str, Any]:
    """Hugging Face's config of a model.

    Raises:
        RequestError: it has no place for the model.
    """
    config, encoder, predictor = model.config, model.encoder, model.predictor
    shape = config.model
    reason = ""
    if config.objective not in OBJECTIVES:
        reason = f"it was trained by '{config.objective}', of {', '.join(OBJECTIVES)}"
    elif type(encoder) is not VisionTransformer or encoder.attention != "clip":
        reason = "its encoder is not V-JEPA 2's"
    elif shape.rope != "tiled":
        reason = f"rope '{shape.rope}' is V-JEPA 2.1's, and its features would be others"
    if reason:
        raise RequestError(
            f"{ARCHITECTURE} has no place for this model: {reason}", where="--format huggingface"
        )
    assert isinstance(encoder, VisionTransformer)
    assert isinstance(predictor, Predictor)
    assert isinstance(shape.encoder, Encoder)
    objective = config.job["objective"]
    own = Own(fps=model.clip.fps, objective=objective)
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
        "pred_num_mask_tokens": predictor.masks,
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
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
