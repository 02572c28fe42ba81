"""A trained model as a folder: `config.json` and `model.safetensors`, nothing that can run code."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orchestrator.errors import DataError, RequestError
from orchestrator.jepa.causal import CausalPredictor, build_causal
from orchestrator.jepa.encoder import build_encoder
from orchestrator.jepa.frames import FramePredictor, build_frame_encoder, build_frame_predictor
from orchestrator.jepa.objectives import Objective, build_objective
from orchestrator.jepa.objectives.pixels import normed_patches
from orchestrator.jepa.pixels import normalise
from orchestrator.jepa.predictor import Predictor, build_predictor
from orchestrator.job import Model, TrainJob, differences, job_dict
from orchestrator.job.base import CustomPart, Section
from orchestrator.job.fingerprint import flatten

CONFIG, WEIGHTS = "config.json", "model.safetensors"

PREDICTIVE = ("vjepa2", "lejepa", "lewm", "pixels", "causal")
"""Objectives whose model keeps a built-in predictor. A student of a frozen teacher keeps none:
it says what the teacher's features will be, and the teacher is not part of the model."""

FORWARDS = (CausalPredictor, FramePredictor)
"""Predictors that read time forwards, and need no mask tokens."""

AnyPredictor = Predictor | CausalPredictor | FramePredictor

FOLLOWED = ("vjepa2", "causal")
"""Objectives that predict a teacher's features."""

State = dict[str, Tensor]


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

    def grid_of(self, frames: int) -> tuple[int, int, int]:
        """The tokens that `frames` frames become: patches, or one a moment for LeWorldModel."""
        side = 1 if self.objective == "lewm" else self.size // self.model.patch
        return frames // self.model.tubelet, side, side


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
    def area(self) -> int:
        """Tokens of one moment."""
        return self.grid[1] * self.grid[2]


class WorldModel(nn.Module):
    """A trained encoder, and its predictor where the objective had the built-in one.

    It can be judged: see `evaluation.judgeable`.
    """

    def __init__(
        self, config: ModelConfig, encoder: nn.Module, predictor: AnyPredictor | None
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.predictor = config, encoder, predictor

    @property
    def clip(self) -> ClipShape:
        """The clip that the model was trained on."""
        config = self.config
        return ClipShape(
            config.size,
            config.frames,
            float(config.job["data"]["fps"]),
            config.model.tubelet,
            config.grid_of(config.frames),
        )

    @property
    def masks(self) -> int:
        """Mask tokens that can ask for what is hidden; 0: the model predicts nothing."""
        return 0 if self.predictor is None else self.predictor.masks

    @torch.no_grad()
    def encode(self, video: Tensor | npt.NDArray[np.uint8], seen: int | None = None) -> Tensor:
        """Features of every space-time patch.

        Args:
            video: uint8 [B, T, H, W, 3]. T divides by the tubelet and may differ from the
                trained length; frames of another size are resized to the trained square as a
                whole (crop first to keep proportions).
            seen: only the first so many frames, made without the others.

        Returns:
            float32 [B, tokens, dim] on the model's device; token (t * H + y) * W + x. Of a
            LeWorldModel the tokens are the moments' embeddings, H = W = 1.

        Raises:
            RequestError: the video has another type or shape.
        """
        clip = video if isinstance(video, Tensor) else torch.from_numpy(np.asarray(video))
        self._check(clip)
        device = next(self.encoder.parameters()).device
        pixels = normalise(_resize(clip.to(device), self.config.size), torch.float32)
        keep = None if seen is None else self._first(seen, len(clip), device)
        features: Tensor = self.encoder(pixels, keep)
        return features.float()

    @torch.no_grad()
    def foresee(self, features: Tensor, mask: int = 0) -> Tensor:
        """Predict the features of the rest of a clip, as `compared` gives them.

        Args:
            features: what `encode` makes of the clip's first frames, [B, n, dim].
            mask: which of the mask tokens asks.

        Returns:
            float32 [B, N - n, dim], N being the tokens of a trained clip.
        """
        assert self.predictor is not None, "masks is 0"
        count = self.clip.grid[0] * self.clip.area
        ids = torch.arange(count, device=features.device).expand(len(features), -1)
        context, target = ids[:, : features.shape[1]], ids[:, features.shape[1] :]
        predicted: Tensor = self.predictor(features, context, target, mask)
        return predicted.float()

    @property
    def horizons(self) -> int:
        """Moments ahead that are predicted after every moment in one pass; 0: not so."""
        return self.predictor.horizons if isinstance(self.predictor, FORWARDS) else 0

    @torch.no_grad()
    def ahead(self, features: Tensor) -> Tensor:
        """What follows each moment of a clip, as `compared` gives it.

        Args:
            features: what `encode` makes of the clip, [B, N, dim].

        Returns:
            float32 [B, moments, area, horizons, dim].
        """
        assert isinstance(self.predictor, FORWARDS), "horizons is 0"
        return self.predictor.ahead(features).float()

    def compared(self, features: Tensor, video: Tensor) -> Tensor:
        """What the predictor is to say of a clip, by the model's objective.

        Features normed per token where a teacher was predicted; the encoder's own for LeJEPA
        and LeWorldModel; the normalised patches for pixel prediction.

        Args:
            features: what `encode` makes of the video, [B, n, dim].
            video: uint8 [B, T, size, size, 3].
        """
        if self.config.objective == "pixels":
            shape = self.config.model
            pixels = normalise(video.to(features.device), torch.float32)
            return normed_patches(pixels, shape.patch, shape.tubelet)
        if self.config.objective in FOLLOWED:
            return F.layer_norm(features, features.shape[-1:])
        return features

    def untaught(self, seed: int) -> WorldModel:
        """A model of the same shape that has learnt nothing."""
        return random_model(self.config, seed)

    def _first(self, frames: int, clips: int, device: torch.device) -> Tensor:
        """Ids of the first frames' tokens, [clips, n]."""
        count = frames // self.config.model.tubelet * self.clip.area
        return torch.arange(count, device=device).expand(clips, -1)

    def _check(self, clip: Tensor) -> None:
        if clip.dtype != torch.uint8 or clip.ndim != 5 or clip.shape[-1] != 3:
            raise RequestError(
                f"got {str(clip.dtype).removeprefix('torch.')} {list(clip.shape)}",
                where="video",
                mend="give uint8 [B, T, H, W, 3]",
            )
        tubelet = self.config.model.tubelet
        if clip.shape[1] == 0 or clip.shape[1] % tubelet:
            raise RequestError(
                f"{clip.shape[1]} frames do not divide by the model's tubelet {tubelet}",
                where="video",
                mend=f"give a multiple of {tubelet} frames; it was trained on {self.config.frames}",
            )


def save_model(
    folder: Path,
    objective: Objective,
    teacher_encoder: nn.Module | None,
    job: TrainJob,
    extra: dict[str, Any],
) -> None:
    """Write the objective's weights as float32; the teacher stands in for what it averages.

    `config.json` is written last: a folder with one is whole.
    """
    state = dict(objective.state_dict())
    if teacher_encoder is not None:
        averaged = f"{objective.averaged}."
        state = {k: v for k, v in state.items() if not k.startswith(averaged)}
        state |= {averaged + k: v for k, v in teacher_encoder.state_dict().items()}
    config = ModelConfig(
        model=job.model,
        size=job.data.size,
        frames=job.data.frames,
        objective=job.objective.kind,
        job=job_dict(job),
        extra=extra,
    )
    folder.mkdir(parents=True, exist_ok=True)
    # Cloned: safetensors refuses tensors that share memory.
    whole = {k: v.detach().to("cpu", torch.float32, copy=True) for k, v in state.items()}
    partial = folder / f"{WEIGHTS}.partial"
    save_file(whole, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes files that only their owner can read
    os.replace(partial, folder / WEIGHTS)
    text = json.dumps(config.model_dump(mode="json", by_alias=True), indent=2)
    partial = folder / f"{CONFIG}.partial"
    partial.write_text(text + "\n")
    os.replace(partial, folder / CONFIG)


def load_folder(folder: Path, device: str | torch.device = "cpu") -> WorldModel:
    """The model that `save_model` wrote, ready to encode.

    Raises:
        DataError: a file is missing, damaged, or does not fit the other.
        RequestError: the model names a custom encoder that cannot be imported here.
    """
    config, state = _read_config(folder), _read_weights(folder)
    with torch.random.fork_rng(devices=[]):
        encoder = _encoder_of(config)
    predictor = None
    if config.objective in PREDICTIVE:
        predictor = _build_predictor(config, encoder, state, folder)
    for name, module in (("encoder", encoder), ("predictor", predictor)):
        if module is not None:
            prefix = f"{name}."
            part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            _refuse_misfit(part, module.state_dict(), name, folder)
            module.load_state_dict(part)
    return WorldModel(config, encoder, predictor).eval().requires_grad_(False).to(device)


def digest_of(folder: Path) -> str:
    """16 hex digits of a saved model's weights.

    Raises:
        DataError: they cannot be read.
    """
    path = folder / WEIGHTS
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise DataError(
            f"cannot read the weights: {error.strerror}",
            where=str(path),
            mend=f"name a folder with {CONFIG} and {WEIGHTS}",
        ) from None


def random_model(config: ModelConfig, seed: int) -> WorldModel:
    """A model of the same shape that has learnt nothing: what a trained one must beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _encoder_of(config)
        predictor = None
        if config.objective in PREDICTIVE:
            masks = len(config.job["objective"].get("masks", ()))
            predictor = _predictor_of(config, encoder, masks)
    return WorldModel(config, encoder, predictor).eval().requires_grad_(False)


def load_start(objective: Objective, folder: Path) -> None:
    """Begin training from a saved model's weights instead of random ones (`model.from`).

    Size and length of the clips may differ from the saved ones: no weight depends on them.

    Raises:
        DataError: the folder is not a whole model.
        RequestError: its weights do not fit the job's model.
    """
    objective.load_state_dict(read_start(objective, folder))


def read_start(objective: Objective, folder: Path) -> State:
    """The weights of a saved model that `objective` begins with; only its shapes are looked at.

    Raises:
        DataError: the folder is not a whole model.
        RequestError: its weights do not fit the job's model.
    """
    _read_config(folder)
    state = _read_weights(folder)
    misfit = _misfit(state, objective.state_dict())
    if misfit:
        raise RequestError(
            f"the weights in {folder} do not fit the job's model: {misfit}",
            where="model.from",
            mend=f"give `model` and the number of masks as {folder / CONFIG} has them",
        )
    return state


def check_start(job: TrainJob, folder: Path) -> None:
    """Refuse to begin `job` with a saved model of another shape; no memory is taken for the job's.

    Raises:
        DataError: the folder is not a whole model.
        RequestError: its weights do not fit, or would mean something else (heads).
    """
    changes = _changes(_read_config(folder).model, job.model)
    if changes:
        raise RequestError(
            f"the model in {folder} has another shape: {changes}",
            where="model.from",
            mend=f"give `model` as {folder / CONFIG} has it",
        )
    read_start(outline(job), folder)


def start_misfit(former: TrainJob, job: TrainJob) -> str:
    """What of the model that `former` will save does not fit `job` as its start, or ''."""
    changes = _changes(former.model, job.model)
    return changes or _misfit(outline(former).state_dict(), outline(job).state_dict())


def _changes(old: Model, new: Model) -> str:
    """Keys that differ; some, as heads, change what the same weights mean."""
    flat = [flatten({"model": one.model_dump(mode="json") | {"start": None}}) for one in (old, new)]
    return "; ".join(differences(*flat))


def outline(job: TrainJob) -> Objective:
    """The job's objective without its weights: names and shapes, no memory.

    Parts of a user's own are built in full, since they may need real memory to be made.
    """
    own = isinstance(job.model.encoder, CustomPart) or isinstance(job.objective, CustomPart)
    with torch.device("cpu" if own else "meta"):
        return build_objective(job)


def _build_predictor(
    config: ModelConfig, encoder: nn.Module, state: State, folder: Path
) -> AnyPredictor:
    tokens = state.get("predictor.mask_tokens")
    if tokens is None and config.objective not in ("causal", "lewm"):
        raise DataError(
            "no weights of a predictor", where=str(folder / WEIGHTS), mend="export the model again"
        )
    with torch.random.fork_rng(devices=[]):
        return _predictor_of(config, encoder, 0 if tokens is None else len(tokens))


def _encoder_of(config: ModelConfig) -> nn.Module:
    if config.objective == "lewm":
        hidden = config.job["objective"]["hidden"]
        return build_frame_encoder(
            config.model, size=config.size, frames=config.frames, hidden=hidden
        )
    return build_encoder(config.model, size=config.size, frames=config.frames)


def _predictor_of(config: ModelConfig, encoder: nn.Module, masks: int) -> AnyPredictor:
    tubelet, grid = config.model.tubelet, config.grid_of(config.frames)
    if config.objective == "lewm":
        hidden = config.job["objective"]["hidden"]
        return build_frame_predictor(config.model, encoder=encoder, hidden=hidden)
    if config.objective == "causal":
        horizons = config.job["objective"]["horizons"]
        return build_causal(config.model, encoder=encoder, grid=grid, horizons=horizons)
    out = 3 * tubelet * config.model.patch**2 if config.objective == "pixels" else None
    return build_predictor(config.model, encoder=encoder, grid=grid, mask_tokens=masks, out=out)


def _read_config(folder: Path) -> ModelConfig:
    path = folder / CONFIG
    try:
        return ModelConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"cannot read it: {error.strerror}",
            where=str(path),
            mend=f"name a folder with {CONFIG} and {WEIGHTS}",
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(
            f"not a model's config: {key + ': ' if key else ''}{first['msg']}",
            where=str(path),
            mend="export the model again, or use the version that wrote it",
        ) from None


def _read_weights(folder: Path) -> State:
    path = folder / WEIGHTS
    try:
        state: State = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"cannot read the weights: {error}", where=str(path), mend="export the model again"
        ) from None
    return state


def _refuse_misfit(found: State, wanted: State, name: str, folder: Path) -> None:
    misfit = _misfit(found, wanted)
    if misfit:
        raise DataError(
            f"the {name}'s weights do not fit {CONFIG}: {misfit}",
            where=str(folder / WEIGHTS),
            mend="the two files are not of one model; export it again",
        )


def _misfit(found: State, wanted: State) -> str:
    """The first differences of name or shape between two states, or ''."""
    rows = [f"{key} is missing" for key in wanted.keys() - found.keys()]
    rows += [f"{key} is not known" for key in found.keys() - wanted.keys()]
    rows += [
        f"{key} is {list(found[key].shape)}, not {list(wanted[key].shape)}"
        for key in found.keys() & wanted.keys()
        if found[key].shape != wanted[key].shape
    ]
    rows.sort()
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return "; ".join(rows[:3]) + more


def _resize(clip: Tensor, size: int) -> Tensor:
    """uint8 [B, T, H, W, 3] -> uint8 [B, T, size, size, 3], clip by clip to bound memory."""
    if clip.shape[2:4] == (size, size):
        return clip
    out = clip.new_empty(*clip.shape[:2], size, size, 3)
    for i, frames in enumerate(clip):
        scaled = F.interpolate(
            frames.permute(0, 3, 1, 2).float(),
            (size, size),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        out[i] = scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return out
