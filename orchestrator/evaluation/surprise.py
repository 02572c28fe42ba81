"""Surprise: how far what comes is from what a model predicted (arXiv 2502.11831, section 2).

A model looks at a video through sliding windows of its own clip length. Of each window it sees
the first frames, predicts the features of the others, and is compared with what the (teacher)
encoder makes of the whole window; a LeJEPA with what its one encoder does, a pixel model with
the pixels themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.jepa.hub import WorldModel
from orchestrator.jepa.pixels import normalise

BATCH = 16


@dataclass(frozen=True, order=True)
class View:
    """How a window is looked at."""

    context: int
    """Frames seen."""

    mask: int
    """Which of the objective's mask tokens asks for the hidden ones."""


@dataclass(frozen=True)
class Windows:
    """Where windows lie in a video of `frames` frames."""

    starts: tuple[int, ...]
    length: int
    frames: int

    @classmethod
    def over(cls, frames: int, length: int, stride: int, tubelet: int) -> Windows:
        """Every `stride` frames (brought to whole tubelets), the last one at the video's end.

        Raises:
            RequestError: the video is shorter than a window.
        """
        if frames < length:
            raise RequestError(
                f"the videos have {frames} frames, the model's clip has {length}",
                where="suite.frames",
                mend=f"show {length} frames or more",
            )
        step = max(tubelet, stride // tubelet * tubelet)
        starts = sorted({*range(0, frames - length, step), frames - length})
        return cls(tuple(starts), length, frames)


def views_of(model: WorldModel, contexts: Sequence[int]) -> list[View]:
    """Every way to look that a model allows.

    Raises:
        RequestError: the model cannot predict, or a context is no part of its clip.
    """
    frames, tubelet = model.config.frames, model.config.model.tubelet
    if model.predictor is None:
        raise RequestError(
            f"a model of objective '{model.config.objective}' has no predictor here",
            where="model",
            mend="judge a model of objective vjepa2, lejepa or pixels",
        )
    for context in contexts:
        if context % tubelet or not 0 < context < frames:
            raise RequestError(
                f"a context of {context} frames in a clip of {frames} with tubelets of {tubelet}",
                where="surprise.contexts",
                mend=f"write multiples of {tubelet} below {frames}",
            )
    quarters = [frames * part // 4 // tubelet * tubelet for part in (1, 2, 3)]
    chosen = contexts or sorted({c for c in quarters if c})
    masks = range(len(model.predictor.mask_tokens))
    return [View(context, mask) for context in chosen for mask in masks]


@torch.no_grad()
def window_errors(model: WorldModel, clips: Tensor, views: Sequence[View]) -> dict[View, Tensor]:
    """Mean L1 error of each hidden tubelet: per view float32 [B, tubelets], NaN where seen.

    Args:
        clips: uint8 [B, T, size, size, 3], T being the model's clip length.
    """
    assert model.predictor is not None
    config = model.config
    pixels = normalise(clips, torch.float32)
    wanted = model.wanted(pixels)
    tubelets, area = config.frames // config.model.tubelet, (config.size // config.model.patch) ** 2
    ids = torch.arange(tubelets * area).expand(len(clips), -1)
    found: dict[View, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for view in views:
        first = view.context // config.model.tubelet * area
        context, target = ids[:, :first], ids[:, first:]
        if view.context not in seen:
            seen[view.context] = model.encoder(pixels, context)
        predicted = model.predictor(seen[view.context], context, target, view.mask)
        error = (predicted - wanted[:, first:]).abs().mean(-1).view(len(clips), -1, area).mean(-1)
        found[view] = F.pad(error, (tubelets - error.shape[1], 0), value=float("nan"))
    return found


def surprise(
    model: WorldModel, videos: np.ndarray, views: Sequence[View], windows: Windows
) -> dict[View, np.ndarray]:
    """Errors by window and frame: per view float32 [videos, windows, frames], NaN where unseen.

    Args:
        videos: uint8 [videos, frames, size, size, 3].
    """
    tubelet = model.config.model.tubelet
    clips = np.stack([videos[:, s : s + windows.length] for s in windows.starts], axis=1)
    flat = torch.from_numpy(clips.reshape(-1, *clips.shape[2:]))
    parts = [window_errors(model, batch, views) for batch in torch.split(flat, BATCH)]
    out = {}
    for view in views:
        error = torch.cat([part[view] for part in parts]).repeat_interleave(tubelet, dim=1).numpy()
        error = error.reshape(len(videos), len(windows.starts), windows.length)
        whole = np.full((*error.shape[:2], windows.frames), np.nan, np.float32)
        for i, start in enumerate(windows.starts):
            whole[:, i, start : start + windows.length] = error[:, i]
        out[view] = whole
    return out


AGGREGATES = ("mean", "max")


def aggregated(errors: np.ndarray, how: str) -> np.ndarray:
    """One number per video from [..., windows, frames]: the mean of all, or the worst window's."""
    each = np.nanmean(errors, axis=-1)
    found: np.ndarray = each.max(-1) if how == "max" else each.mean(-1)
    return found


def curve(errors: np.ndarray) -> np.ndarray:
    """Surprise by frame, [..., frames] from [..., windows, frames]; NaN where none predicts."""
    known = ~np.isnan(errors)
    total, count = np.where(known, errors, 0).sum(-2), known.sum(-2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
