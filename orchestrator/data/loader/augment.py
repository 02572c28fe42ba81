"""What is done to a clip before the model sees it: the built-in crop and flip, or your own.

Your own augmentation is a class with a pydantic model `Config`, made as `Mine(config, size)`
and called as `mine(frames, rng)`: `frames` is uint8 [T, H, W, 3] as the video has them, the
result uint8 [T, size, size, 3], and `rng` a generator drawn from (seed, position).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from orchestrator.data.codec.decode import Crop, decode_clip
from orchestrator.errors import RequestError
from orchestrator.job import CropFlip, Data, component_config, import_component

_ATTEMPTS = 10

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class FrameReader(Protocol):
    """From a payload to the pixels of one clip."""

    def __call__(
        self, payload: bytes, times: np.ndarray, rng: np.random.Generator, out: np.ndarray
    ) -> None:
        """Write the frames shown at `times` into `out`, uint8 [T, size, size, 3]."""


def build_frame_reader(data: Data) -> FrameReader:
    """The augmentation that a job names, joined with decoding."""
    if isinstance(data.augment, CropFlip):
        return CropFlipFrameReader(data.augment, data.size)
    part = import_component(data.augment.kind)
    return CustomFrameReader(part(component_config(data.augment), data.size), data.augment.kind)


class CropFlipFrameReader:
    """The built-in: one crop and flip per clip, made by the decoder's own scaler."""

    def __init__(self, config: CropFlip, size: int) -> None:
        self._config, self._size = config, size

    def __call__(
        self, payload: bytes, times: np.ndarray, rng: np.random.Generator, out: np.ndarray
    ) -> None:
        def choose(width: float, height: float) -> Crop:
            return sample_crop(self._config, rng, width, height)

        decode_clip(payload, times, size=self._size, choose_crop=choose, out=out)


class CustomFrameReader:
    """A user's augmentation over whole frames."""

    def __init__(self, augment: Augmentation, name: str) -> None:
        self._augment, self._name = augment, name

    def __call__(
        self, payload: bytes, times: np.ndarray, rng: np.random.Generator, out: np.ndarray
    ) -> None:
        frames = self._augment(decode_clip(payload, times), rng)
        if frames.shape != out.shape or frames.dtype != np.uint8:
            raise RequestError(
                f"returned {frames.dtype} {list(frames.shape)}, not uint8 {list(out.shape)}",
                where=self._name,
                hint="return uint8 [frames, size, size, 3]",
            )
        out[...] = frames


def sample_crop(config: CropFlip, rng: np.random.Generator, width: float, height: float) -> Crop:
    """A box of a random share of the area and a random aspect, inside width x height pixels.

    The aspect is drawn evenly in its logarithm. Where ten draws do not fit, the largest
    centred box whose aspect is allowed.
    """
    flip = bool(rng.random() < config.flip)
    low, high = math.log(config.aspect[0]), math.log(config.aspect[1])
    for _ in range(_ATTEMPTS):
        area = rng.uniform(*config.scale) * width * height
        aspect = math.exp(rng.uniform(low, high))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            x, y = rng.random() * (width - w), rng.random() * (height - h)
            return Crop(x, y, w, h, flip)
    aspect = min(max(width / height, config.aspect[0]), config.aspect[1])
    w, h = min(width, height * aspect), min(height, width / aspect)
    return Crop((width - w) / 2, (height - h) / 2, w, h, flip)
