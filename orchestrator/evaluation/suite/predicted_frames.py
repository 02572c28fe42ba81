"""What a model expected to see, as pictures: for people who look at a report."""

from __future__ import annotations

import numpy as np
import torch

from orchestrator.evaluation.evaluable import DecodesToPixels, Evaluable, PredictsNext
from orchestrator.evaluation.measures.surprise import ContextSpec


@torch.no_grad()
def predicted_frames(model: Evaluable, video: np.ndarray, view: ContextSpec) -> np.ndarray | None:
    """The last window of a video as the model expected each of its moments, `view.horizon` moments
    before; what it was shown without being asked is grey.

    Args:
        video: uint8 [frames, S, S, 3].

    Returns:
        uint8 [window, S, S, 3]; None: the model does not predict so, or its features are no
        pictures.
    """
    if (
        not view.horizon
        or not isinstance(model, PredictsNext)
        or not isinstance(model, DecodesToPixels)
    ):
        return None
    shape = model.clip
    clip = torch.from_numpy(video[None, -shape.frames :])
    told = model.ahead(model.encode(clip))[:, : -view.horizon, :, view.horizon - 1]
    seen = model.pictured(told.flatten(1, 2))
    if seen is None:
        return None
    pictures = np.full((shape.frames, *seen.shape[2:]), 128, np.uint8)
    pictures[view.horizon * shape.tubelet :] = seen[0].cpu().numpy()
    pictures[: view.context] = 128
    return pictures
