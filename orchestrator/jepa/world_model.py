"""A trained model in memory: what is encoded and predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.jepa.encoders.pca import PCAPatchEncoder
from orchestrator.jepa.model_config import (
    ClipShape,
    ModelConfig,
    randomly_initialized_modules,
)
from orchestrator.jepa.objectives.pixels.objective import normalize_patches
from orchestrator.jepa.pixel_normalization import denormalise, normalise


class WorldModel(nn.Module):
    """A trained encoder, and its predictor where the objective had the built-in one.

    It can be judged: see `evaluation.evaluable`.
    """

    def __init__(
        self, config: ModelConfig, encoder: nn.Module, predictor: nn.Module | None
    ) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.predictor: Any = predictor
        """Of a type that the objective decides."""

    @property
    def clip(self) -> ClipShape:
        """The clip that the model was trained on."""
        config = self.config
        return ClipShape(
            config.size,
            config.frames,
            float(config.job["data"]["fps"]),
            config.tubelet,
            config.token_grid_of(config.frames),
        )

    @property
    def masks(self) -> int:
        """Mask tokens that can ask for what is hidden; 0: the model predicts nothing."""
        return 0 if self.predictor is None else int(self.predictor.num_mask_tokens)

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
            LeWorldModel the tokens are the moments' embeddings, H = W = 1; of a V-JEPA 2-AC they
            are layer-normed, as it predicts them, and t counts frames.

        Raises:
            RequestError: the video has another type or shape.
        """
        clip = video if isinstance(video, Tensor) else torch.from_numpy(np.asarray(video))
        self._check_video(clip)
        device = next(self.encoder.parameters()).device
        pixels = normalise(_resize(clip.to(device), self.config.size), torch.float32)
        keep = None if seen is None else self._context_token_ids(seen, len(clip), device)
        return self._encode_normalized(pixels, keep).float()

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
        count = self.clip.grid[0] * self.clip.tokens_per_timestep
        ids = torch.arange(count, device=features.device).expand(len(features), -1)
        context, target = ids[:, : features.shape[1]], ids[:, features.shape[1] :]
        predicted: Tensor = self.predictor(features, context, target, mask)
        return predicted.float()

    @property
    def horizons(self) -> int:
        """Moments ahead that are predicted after every moment in one pass; 0: not so."""
        predicts = self.predictor is not None and self.config.objective_config_class.autoregressive
        return int(self.predictor.num_horizons) if predicts else 0

    @torch.no_grad()
    def ahead(self, features: Tensor) -> Tensor:
        """What follows each moment of a clip, as `compared` gives it.

        Args:
            features: what `encode` makes of the clip, [B, N, dim].

        Returns:
            float32 [B, moments, area, horizons, dim].
        """
        assert self.horizons, "horizons is 0"
        predicted: Tensor = self.predictor.predict_next(features).float()
        return predicted

    def predict(self, z: Tensor, actions: Tensor, states: Tensor | None = None) -> Tensor:
        """What follows what is done: only of a model that acts (`ActionConditionedModel`).

        Raises:
            RequestError: this one was trained without actions.
        """
        raise RequestError(
            "this model was trained without actions: it cannot be told what is done",
            where="model",
            hint="train one with data.actions, on data with KEY.actions.npy",
        )

    def compared(self, features: Tensor, video: Tensor) -> Tensor:
        """What the predictor is to say of a clip, by the model's objective.

        Features normed per token where a teacher was predicted; the encoder's own for LeJEPA,
        LeWorldModel and dynamics; the normalised patches for pixel prediction.

        Args:
            features: what `encode` makes of the video, [B, n, dim].
            video: uint8 [B, T, size, size, 3].
        """
        target = self.config.objective_config_class.prediction_target
        if target == "pixels":
            shape = self.config.model
            pixels = normalise(video.to(features.device), torch.float32)
            return normalize_patches(pixels, shape.patch, shape.tubelet)
        if target == "normalized_features":
            return F.layer_norm(features, features.shape[-1:])
        return features

    @torch.no_grad()
    def pictured(self, features: Tensor) -> Tensor | None:
        """What whole moments of features look like, where features can be turned into pictures
        again (`codes`); else None.

        Args:
            features: as `compared` gives them, [B, n, dim].

        Returns:
            uint8 [B, T, size, size, 3].
        """
        if not isinstance(self.encoder, PCAPatchEncoder):
            return None
        _, height, width = self.clip.grid
        grid = features.shape[1] // self.clip.tokens_per_timestep, height, width
        return denormalise(self.encoder.decode_to_pixels(features, grid))

    def untaught(self, seed: int) -> WorldModel:
        """A model of the same shape that has learnt nothing."""
        parts = randomly_initialized_modules(self.config, seed)
        return type(self)(self.config, *parts).eval().requires_grad_(False)

    def _encode_normalized(self, pixels: Tensor, keep: Tensor | None) -> Tensor:
        """Normalised video [B, 3, T, H, W] -> the tokens `keep` [B, n], or all: [B, n, dim]."""
        features: Tensor = self.encoder(pixels, keep)
        return features

    def _context_token_ids(self, frames: int, clips: int, device: torch.device) -> Tensor:
        """Ids of the first frames' tokens, [clips, n]."""
        count = frames // self.config.tubelet * self.clip.tokens_per_timestep
        return torch.arange(count, device=device).expand(clips, -1)

    def _check_video(self, clip: Tensor) -> None:
        if clip.dtype != torch.uint8 or clip.ndim != 5 or clip.shape[-1] != 3:
            raise RequestError(
                f"got {str(clip.dtype).removeprefix('torch.')} {list(clip.shape)}",
                where="video",
                hint="give uint8 [B, T, H, W, 3]",
            )
        tubelet = self.config.tubelet
        if clip.shape[1] == 0 or clip.shape[1] % tubelet:
            raise RequestError(
                f"{clip.shape[1]} frames do not divide by the model's tubelet {tubelet}",
                where="video",
                hint=f"give a multiple of {tubelet} frames; it was trained on {self.config.frames}",
            )


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
