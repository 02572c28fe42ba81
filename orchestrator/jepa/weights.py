"""Tensors of a model's folder: one safetensors file or several, each number a finite float."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.errors import DataError, JobFailed

WEIGHTS_FILE = "model.safetensors"
SHARD_INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
"""Says in which file (shard) each tensor is, where there are several."""

StateDict = dict[str, Tensor]

READABLE_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types that are read. Of others (int8, float8, bool, complex) the numbers alone say nothing: a
quantized tensor has scales beside it."""

_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf", "*.onnx")
_LFS = b"version https://git-lfs"
_NOT_FINITE = "is not finite"


class ModelError(DataError):
    """A model that was named cannot be used. Exit code 2."""

    exit_code = 2


class DivergedModelError(ModelError, JobFailed):
    """Its weights are not finite: it comes from a training that failed."""


def read_weights(folder: Path) -> StateDict:
    """The tensors of a folder's `model.safetensors`.

    Raises:
        ModelError: they cannot be read, or a tensor is no finite float.
    """
    path = folder / WEIGHTS_FILE
    if not path.exists():
        raise _missing_weights_error(folder)
    return _check_tensors(folder, _read_file(path))


def read_sharded_weights(folder: Path) -> StateDict:
    """The tensors of a folder that others made: `model.safetensors`, or the shards of its index.

    Raises:
        ModelError: they cannot be read, or a tensor is no finite float.
    """
    if (folder / WEIGHTS_FILE).exists() or not (folder / SHARD_INDEX_FILE).exists():
        return read_weights(folder)
    return _check_tensors(folder, _read_shards(folder))


def _check_tensors(folder: Path, state: StateDict) -> StateDict:
    odd = describe_invalid_tensor(state)
    if odd:
        kind = DivergedModelError if _NOT_FINITE in odd else ModelError
        raise kind(
            odd, where=str(folder), hint="bring weights in as floats, of a training that ended well"
        )
    return state


def describe_invalid_tensor(state: StateDict) -> str:
    """What is wrong with the first tensor that is no finite float, by its name; '' if none is."""
    for name, value in sorted(state.items()):
        if value.layout != torch.strided:
            return f"{name} is sparse"
        if value.dtype not in READABLE_DTYPES:
            kind = str(value.dtype).removeprefix("torch.")
            return f"{name} is of type {kind}: quantized weights are not read, nor are other types"
        bad = value.numel() - int(value.float().isfinite().sum())
        if bad:
            kind = "NaN" if bool(value.isnan().any()) else "infinite"
            return f"{name} {_NOT_FINITE}: {kind} in {bad:,} of {value.numel():,} numbers"
    return ""


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS left a pointer in place of the file."""
    with open(path, "rb") as file:
        return file.read(len(_LFS)) == _LFS


def why_not_json(path: Path) -> str:
    """Why a file is no JSON."""
    if is_lfs_pointer(path):
        return "a pointer of Git LFS, not the file itself (git lfs pull)"
    return "no JSON"


def _read_file(path: Path) -> StateDict:
    try:
        if is_lfs_pointer(path):
            raise _unreadable_error(path, why_not_json(path))
        state: StateDict = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _unreadable_error(path, str(error) or type(error).__name__) from None
    return state


def _read_shards(folder: Path) -> StateDict:
    """The tensors of all shards: each in the one that the index names, and nowhere else."""
    index = folder / SHARD_INDEX_FILE
    places = _read_shard_index(index)
    state: StateDict = {}
    for file in sorted(set(places.values())):
        if not (folder / file).is_file():
            raise _unreadable_error(index, f"it names the shard {file}, which is missing")
        shard = _read_file(folder / file)
        for name in sorted(shard):
            if name not in places:
                raise _unreadable_error(index, f"{name} of {file} does not stand in it")
            if places[name] != file:
                raise _unreadable_error(
                    index, f"{name} is in {file}, the index says {places[name]}"
                )
        state |= shard
    missing = sorted(places.keys() - state.keys())
    if missing:
        raise _unreadable_error(
            index, f"{missing[0]} is not in {places[missing[0]]}, as the index says"
        )
    return state


def _read_shard_index(index: Path) -> dict[str, str]:
    """The file of each tensor, by an index that names only files beside it."""
    try:
        raw = json.loads(index.read_bytes())
    except OSError as error:
        raise _unreadable_error(index, error.strerror or str(error)) from None
    except (ValueError, RecursionError):
        raise _unreadable_error(index, why_not_json(index)) from None
    places = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(places, dict) or not places:
        raise _unreadable_error(index, "no weight_map in it")
    for name, file in places.items():
        if not isinstance(file, str):
            raise _unreadable_error(index, f"the shard of {name} is {file!r}, no name of a file")
        if file in ("", "..") or Path(file).name != file or set(file) & set("\\\0"):
            raise _unreadable_error(index, f"the shard of {name} leads out of the folder: {file!r}")
    return places


def _missing_weights_error(folder: Path) -> ModelError:
    found = sorted(path.name for glob in _OTHER_FORMATS for path in folder.glob(glob))
    if (folder / SHARD_INDEX_FILE).exists():
        return ModelError(
            "cannot read the weights: they lie in several files",
            where=str(folder / SHARD_INDEX_FILE),
            hint=f"bring them in first: orchestrator models import {quote(str(folder))} DIR",
        )
    if not found:
        return _unreadable_error(folder / WEIGHTS_FILE, "No such file")
    return ModelError(
        f"cannot read the weights: {found[0]} is no safetensors file, and may hold code",
        where=str(folder),
        hint=f"save them as {WEIGHTS_FILE} where they were made: save_pretrained(...,"
        " safe_serialization=True)",
    )


def _unreadable_error(path: Path, why: str) -> ModelError:
    return ModelError(
        f"cannot read the weights: {why.splitlines()[0]}",
        where=str(path),
        hint="export the model again, or download it again",
    )
