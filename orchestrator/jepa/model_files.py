"""A trained model as a folder: `config.json` and `model.safetensors`, nothing that can run code."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from orchestrator.errors import RequestError
from orchestrator.jepa.action_conditioned import build_world_model, randomly_initialized_model
from orchestrator.jepa.model_config import (
    ClipShape,
    ModelConfig,
    build_model_encoder,
    build_model_predictor,
)
from orchestrator.jepa.objectives import Objective, build_objective
from orchestrator.jepa.weights import (
    WEIGHTS_FILE,
    ModelError,
    StateDict,
    read_weights,
    why_not_json,
)
from orchestrator.jepa.world_model import WorldModel
from orchestrator.job import Model, TrainJob, differences
from orchestrator.job.config.base import CustomComponent
from orchestrator.job.fingerprint import flatten

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "ClipShape",
    "ModelConfig",
    "ModelError",
    "StateDict",
    "WorldModel",
    "check_initial_weights",
    "initial_weights_mismatch",
    "load_folder",
    "load_weights_into",
    "objective_on_meta_device",
    "randomly_initialized_model",
    "read_weights",
    "save_model",
    "state_dict_mismatch",
    "weights_digest",
    "write_model",
    "write_text",
    "write_weights",
]

CONFIG_FILE = "config.json"


def save_model(
    folder: Path,
    objective: Objective,
    teacher_encoder: nn.Module | None,
    job: TrainJob,
    extra: dict[str, Any],
) -> None:
    """Write the objective's weights as float32; the teacher stands in for what it averages.

    Where the objective has no encoder of its own, the teacher's is the model's.

    What the folder was before is replaced file by file, `config.json` last.
    """
    state = dict(objective.state_dict())
    if teacher_encoder is not None:
        averaged = f"{objective.averaged or 'encoder'}."
        state = {k: v for k, v in state.items() if not k.startswith(averaged)}
        state |= {averaged + k: v for k, v in teacher_encoder.state_dict().items()}
    # Who loads the model need not have the code that watched its training.
    unwatched = job.model_copy(update={"callbacks": ()})
    write_model(folder, state, ModelConfig.from_job(unwatched, **extra))


def write_model(folder: Path, state: StateDict, config: ModelConfig) -> None:
    """Write weights as float32, then `config.json`: a folder with one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, state)
    text = json.dumps(config.model_dump(mode="json", by_alias=True), indent=2)
    write_text(folder / CONFIG_FILE, text + "\n")


def write_weights(folder: Path, state: StateDict) -> None:
    """`model.safetensors` of a folder, float32, whole or not there."""
    # Cloned: safetensors refuses tensors that share memory.
    whole = {k: v.detach().to("cpu", torch.float32, copy=True) for k, v in state.items()}
    partial = folder / f"{WEIGHTS_FILE}.partial"
    save_file({k: v.contiguous() for k, v in whole.items()}, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes files that only their owner can read
    os.replace(partial, folder / WEIGHTS_FILE)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not there."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def load_folder(folder: Path, device: str | torch.device = "cpu") -> WorldModel:
    """The model that `save_model` wrote, ready to encode.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the other.
        RequestError: the model names a custom encoder that cannot be imported here.
    """
    config, state = _read_config(folder), read_weights(folder)
    with torch.random.fork_rng(devices=[]):
        encoder = build_model_encoder(config)
    predictor = None
    if config.objective_config_class.keeps_predictor():
        predictor = _build_predictor(config, encoder, state, folder)
    for name, module in (("encoder", encoder), ("predictor", predictor)):
        if module is not None:
            prefix = f"{name}."
            part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            _check_state_dict(part, module.state_dict(), name, folder)
            module.load_state_dict(part)
    return build_world_model(config, encoder, predictor).to(device)


def weights_digest(folder: Path) -> str:
    """16 hex digits of a saved model's weights.

    Raises:
        ModelError: they cannot be read.
    """
    path = folder / WEIGHTS_FILE
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ModelError(
            f"cannot read the weights: {error.strerror}",
            where=str(path),
            hint=f"name a folder with {CONFIG_FILE} and {WEIGHTS_FILE}",
        ) from None


def load_weights_into(objective: Objective, folder: Path) -> None:
    """Begin training from a saved model's weights instead of random ones (`model.from`).

    Size and length of the clips may differ from the saved ones: no weight depends on them.

    Raises:
        ModelError: the folder is not a whole model.
        RequestError: its weights do not fit the job's model.
    """
    objective.load_state_dict(read_initial_weights(objective, folder))


def read_initial_weights(objective: Objective, folder: Path) -> StateDict:
    """The weights of a saved model that `objective` begins with; only its shapes are looked at.

    Raises:
        ModelError: the folder is not a whole model.
        RequestError: its weights do not fit the job's model.
    """
    _read_config(folder)
    state, own = read_weights(folder), objective.state_dict()
    if not any(name.startswith("encoder.") for name in own):
        # The encoder in the folder is a frozen teacher's: the job names its own.
        state = {k: v for k, v in state.items() if not k.startswith("encoder.")}
    odd = state_dict_mismatch(state, own)
    if odd:
        raise RequestError(
            f"the weights in {folder} do not fit the job's model: {odd}",
            where="model.from",
            hint=f"give `model` and the number of masks as {folder / CONFIG_FILE} has them",
        )
    return state


def check_initial_weights(job: TrainJob, folder: Path) -> None:
    """Refuse to begin `job` with a saved model of another shape; no memory is taken for the job's.

    Raises:
        ModelError: the folder is not a whole model.
        RequestError: its weights do not fit, or would mean something else (heads).
    """
    changes = _model_differences(_read_config(folder).model, job.model)
    if changes:
        raise RequestError(
            f"the model in {folder} has another shape: {changes}",
            where="model.from",
            hint=f"give `model` as {folder / CONFIG_FILE} has it",
        )
    read_initial_weights(objective_on_meta_device(job), folder)


def initial_weights_mismatch(former: TrainJob, job: TrainJob) -> str:
    """What of the model that `former` will save does not fit `job` as its start, or ''."""
    changes = _model_differences(former.model, job.model)
    if any(
        one.data.actions is not None and one.data.actions.action_dim is None
        for one in (former, job)
    ):
        return changes  # how wide an action is only the data says
    return changes or state_dict_mismatch(
        objective_on_meta_device(former).state_dict(), objective_on_meta_device(job).state_dict()
    )


def _model_differences(old: Model, new: Model) -> str:
    """Keys that differ; some, as heads, change what the same weights mean."""
    flat = [flatten({"model": one.model_dump(mode="json") | {"start": None}}) for one in (old, new)]
    return "; ".join(differences(*flat))


def objective_on_meta_device(job: TrainJob) -> Objective:
    """The job's objective without its weights: names and shapes, no memory.

    Parts of a user's own are built in full, since they may need real memory to be made.
    """
    own = isinstance(job.model.encoder, CustomComponent) or isinstance(
        job.objective, CustomComponent
    )
    with torch.device("cpu" if own else "meta"):
        return build_objective(job)


def _build_predictor(
    config: ModelConfig, encoder: nn.Module, state: StateDict, folder: Path
) -> nn.Module:
    tokens = state.get("predictor.mask_tokens")
    if tokens is None and config.objective_config_class.predicts_masked_tokens:
        raise ModelError(
            "no weights of a predictor",
            where=str(folder / WEIGHTS_FILE),
            hint="export the model again",
        )
    with torch.random.fork_rng(devices=[]):
        return build_model_predictor(config, encoder, 0 if tokens is None else len(tokens))


def _read_config(folder: Path) -> ModelConfig:
    path = folder / CONFIG_FILE
    try:
        return ModelConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(
            f"cannot read it: {error.strerror}",
            where=str(path),
            hint=f"name a folder with {CONFIG_FILE} and {WEIGHTS_FILE}",
        ) from None
    except ValidationError as error:
        if _is_huggingface_config(path):
            raise ModelError(
                "a Hugging Face model, which is not of this layout",
                where=str(path),
                hint=f"bring it in first: orchestrator models import {quote(str(folder))} DIR",
            ) from None
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        why = f"{key + ': ' if key else ''}{first['msg']}"
        if first["type"] == "json_invalid":
            why = why_not_json(path)
        raise ModelError(
            f"not a model's config: {why}",
            where=str(path),
            hint="export the model again, or use the version that wrote it",
        ) from None


def _is_huggingface_config(path: Path) -> bool:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "model_type" in config


def _check_state_dict(actual: StateDict, expected: StateDict, name: str, folder: Path) -> None:
    odd = state_dict_mismatch(actual, expected)
    if odd:
        raise ModelError(
            f"the {name}'s weights do not fit {CONFIG_FILE}: {odd}",
            where=str(folder / WEIGHTS_FILE),
            hint="the two files are not of one model; export it again",
        )


def state_dict_mismatch(actual: StateDict, expected: StateDict) -> str:
    """The first differences of name or shape between two states, or ''."""
    rows = [f"{key} is missing" for key in expected.keys() - actual.keys()]
    rows += [f"{key} is not known" for key in actual.keys() - expected.keys()]
    rows += [
        f"{key} is {list(actual[key].shape)}, not {list(expected[key].shape)}"
        for key in actual.keys() & expected.keys()
        if actual[key].shape != expected[key].shape
    ]
    rows.sort()
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return "; ".join(rows[:3]) + more
