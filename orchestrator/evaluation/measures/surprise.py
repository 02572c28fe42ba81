"""Surprise: how far what comes is from what a model predicted (arXiv 2502.11831, section 2).

A model looks at a video through sliding windows of its own clip length. Of each window it sees
the first frames, predicts the features of the others, and is compared with what the (teacher)
encoder makes of the whole window; a LeJEPA with what its one encoder does, a pixel model with
the pixels themselves. A model that reads time forwards predicts every later frame of a window
from all that came until some moments before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.evaluation.evaluable import Evaluable, PredictsNext
from orchestrator.jepa.action_conditioned import ActionConditionedModel
from orchestrator.jepa.model_files import ClipShape

BATCH_SIZE = 16


@dataclass(frozen=True, order=True)
class ContextSpec:
    """How a window is looked at."""

    context: int
    """Frames seen."""

    mask: int
    """Which of the objective's mask tokens asks for the hidden ones."""

    horizon: int = 0
    """Moments from the last one seen to the one that is predicted; the context grows. 0: all that
    follows the context is predicted from it."""


@dataclass(frozen=True)
class SlidingWindows:
    """Where windows lie in a video of `frames` frames."""

    starts: tuple[int, ...]
    length: int
    frames: int

    @classmethod
    def with_stride(cls, frames: int, length: int, stride: int, tubelet: int) -> SlidingWindows:
        """Every `stride` frames (brought to whole tubelets), the last one at the video's end.

        Raises:
            RequestError: the video is shorter than a window.
        """
        if frames < length:
            raise RequestError(
                f"the videos have {frames} frames, the model's clip has {length}",
                where="suite.frames",
                hint=f"show {length} frames or more",
            )
        step = max(tubelet, stride // tubelet * tubelet)
        starts = sorted({*range(0, frames - length, step), frames - length})
        return cls(tuple(starts), length, frames)

    def extract(self, videos: np.ndarray) -> Tensor:
        """[videos, frames, ...] -> [videos * windows, length, ...]."""
        clips = np.stack([videos[:, s : s + self.length] for s in self.starts], axis=1)
        return torch.from_numpy(clips.reshape(-1, *clips.shape[2:]))

    def scatter_to_frames(self, errors: Tensor) -> np.ndarray:
        """Errors by tubelet, [videos * windows, tubelets], in their places in the videos.

        Returns:
            float32 [videos, windows, frames], NaN outside of a window.
        """
        each = errors.repeat_interleave(self.length // errors.shape[1], dim=1).numpy()
        each = each.reshape(-1, len(self.starts), self.length)
        whole = np.full((*each.shape[:2], self.frames), np.nan, np.float32)
        for i, start in enumerate(self.starts):
            whole[:, i, start : start + self.length] = each[:, i]
        return whole


def context_specs(model: Evaluable, contexts: Sequence[int]) -> list[ContextSpec]:
    """Every way to look that a model allows.

    Raises:
        RequestError: the model cannot predict, or a context is no part of its clip.
    """
    frames, tubelet = model.clip.frames, model.clip.tubelet
    if isinstance(model, ActionConditionedModel):
        raise needs_actions_error("model")
    if not model.masks:
        raise RequestError(
            "the model has no predictor here: it can be surprised by nothing",
            where="model",
            hint="judge a model of objective vjepa2, lejepa, causal or pixels, or one of your own",
        )
    for context in contexts:
        if context % tubelet or not 0 < context < frames:
            raise RequestError(
                f"a context of {context} frames in a clip of {frames} with tubelets of {tubelet}",
                where="surprise.context_frames",
                hint=f"write multiples of {tubelet} below {frames}",
            )
    quarters = [frames * part // 4 // tubelet * tubelet for part in (1, 2, 3)]
    chosen = contexts or sorted({c for c in quarters if c})
    horizons = model.horizons if isinstance(model, PredictsNext) else 0
    return [
        ContextSpec(context, mask, horizon)
        for context in chosen
        for mask in range(model.masks)
        for horizon in range(1 if horizons else 0, horizons + 1)
    ]


def needs_actions_error(where: str) -> RequestError:
    """What is said of a model that acts, where nobody says what is done."""
    return RequestError(
        "the model acts: what follows depends on what is done, and a suite does not say it",
        where=where,
        hint="judge it by planning, or judge a model that was trained without data.actions",
    )


@dataclass(frozen=True)
class WindowFeatures:
    """What a model makes of clips, computed once for all that is measured on it."""

    features: Tensor
    """Of whole clips, float32 [clips, tokens, dim]."""

    prediction_targets: Tensor
    """What predictions are compared with, [clips, tokens, width]."""

    context_targets: dict[int, Tensor]
    """By context: the same of its frames, made without the others, [clips, n, width]."""

    predicted: dict[ContextSpec, Tensor]
    """Of the frames after the context, [clips, tokens - n, width]."""

    errors: dict[ContextSpec, Tensor]
    """Mean L1 error of each tubelet, float32 [clips, tubelets], NaN where seen."""

    def select(self, clips: list[int]) -> WindowFeatures:
        """The same of some of the clips."""
        return WindowFeatures(
            self.features[clips],
            self.prediction_targets[clips],
            {context: known[clips] for context, known in self.context_targets.items()},
            {view: guess[clips] for view, guess in self.predicted.items()},
            {view: error[clips] for view, error in self.errors.items()},
        )


@torch.no_grad()
def encode_windows(model: Evaluable, clips: Tensor, views: Sequence[ContextSpec]) -> WindowFeatures:
    """Look at clips, uint8 [clips, T, size, size, 3], T being the model's clip length.

    The cells of a quadruplet share their first frames: a context is encoded, and predicted from,
    once however many clips begin with it.
    """
    shape = model.clip
    features = _map_batches(model.encode, clips)
    wanted = _map_batches(model.compared, features, clips)
    sight = WindowFeatures(features, wanted, {}, {}, {})
    for context in sorted({view.context for view in views}):
        first, where = _unique_clips(clips[:, :context])
        begun = clips[first]
        z = _map_batches(partial(model.encode, seen=context), begun)
        sight.context_targets[context] = _map_batches(model.compared, z, begun[:, :context])[where]
        mine = [view for view in views if view.context == context]
        for mask in sorted({view.mask for view in mine}):
            guess = _map_batches(partial(model.foresee, mask=mask), z)[where]
            error = (guess - wanted[:, z.shape[1] :]).abs().mean(-1)
            error = error.view(len(clips), -1, shape.tokens_per_timestep).mean(-1)
            error = F.pad(error, (context // shape.tubelet, 0), value=float("nan"))
            for view in mine:
                if view.mask == mask:
                    sight.predicted[view], sight.errors[view] = guess, error
    growing = [view for view in views if view.horizon]
    if growing:
        assert isinstance(model, PredictsNext)
        sight.errors.update(_autoregressive_errors(model, sight, growing, shape))
    return sight


def _autoregressive_errors(
    model: PredictsNext, sight: WindowFeatures, views: Sequence[ContextSpec], shape: ClipShape
) -> dict[ContextSpec, Tensor]:
    """Errors of every moment after the context, predicted from all but the last before it."""
    moments = shape.grid[0]
    wanted = sight.prediction_targets.view(
        len(sight.prediction_targets), moments, shape.tokens_per_timestep, -1
    )
    each: dict[int, list[Tensor]] = {view.horizon: [] for view in views}
    for features, came in zip(
        torch.split(sight.features, BATCH_SIZE), torch.split(wanted, BATCH_SIZE), strict=True
    ):
        guess = model.ahead(features).cpu()
        for horizon, errors in each.items():
            error = (guess[:, :-horizon, :, horizon - 1] - came[:, horizon:]).abs().mean((2, 3))
            errors.append(F.pad(error, (horizon, 0), value=float("nan")))
    found = {}
    for view in views:
        errors_of = torch.cat(each[view.horizon])
        first = max(view.context // shape.tubelet, view.horizon)
        errors_of[:, :first] = float("nan")
        found[view] = errors_of
    return found


def _map_batches(look: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    parts = zip(*(torch.split(each, BATCH_SIZE) for each in rows), strict=True)
    return torch.cat([look(*part).cpu() for part in parts])


def _unique_clips(clips: Tensor) -> tuple[list[int], list[int]]:
    """Which clips are the first of their kind, and for each clip which of those it equals."""
    kinds: dict[bytes, int] = {}
    first: list[int] = []
    where: list[int] = []
    for number, clip in enumerate(clips):
        key = clip.numpy().tobytes()
        if key not in kinds:
            kinds[key] = len(first)
            first.append(number)
        where.append(kinds[key])
    return first, where


def surprise(
    model: Evaluable, videos: np.ndarray, views: Sequence[ContextSpec], windows: SlidingWindows
) -> dict[ContextSpec, np.ndarray]:
    """Errors by window and frame: per view float32 [videos, windows, frames], NaN where unseen.

    Args:
        videos: uint8 [videos, frames, size, size, 3].
    """
    sight = encode_windows(model, windows.extract(videos), views)
    return {view: windows.scatter_to_frames(error) for view, error in sight.errors.items()}


AGGREGATES = ("mean", "max")


def aggregate_errors(errors: np.ndarray, how: str) -> np.ndarray:
    """One number per video from [..., windows, frames]: the mean of all, or the worst window's."""
    each = np.nanmean(errors, axis=-1)
    found: np.ndarray = each.max(-1) if how == "max" else each.mean(-1)
    return found


def surprise_by_frame(errors: np.ndarray) -> np.ndarray:
    """Surprise by frame, [..., frames] from [..., windows, frames]; NaN where none predicts."""
    known = ~np.isnan(errors)
    total, count = np.where(known, errors, 0).sum(-2), known.sum(-2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
