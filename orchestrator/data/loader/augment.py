"""Augmentation of clips: the built-in crop and flip, or a user's own class.

A user's augmentation is a class with a pydantic model `Config`, built as `Mine(config, size)` and
called as `mine(frames, rng)`: `frames` is uint8 [T, H, W, 3] at the video's size, the result uint8
[T, size, size, 3], and `rng` a generator keyed by (seed, position).
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
    """Decodes and augments the frames of one clip."""

    def __call__(
        self, payload: bytes, times: np.ndarray, rng: np.random.Generator, out: np.ndarray
    ) -> None:
        """Write the frames shown at `times` into `out`, uint8 [T, size, size, 3]."""


def build_frame_reader(data: Data) -> FrameReader:
    """Build the frame reader with the job's augmentation."""
    if isinstance(data.augment, CropFlip):
        return CropFlipFrameReader(data.augment, data.size)
    component = import_component(data.augment.kind)
    return CustomFrameReader(
        component(component_config(data.augment), data.size), data.augment.kind
    )


class CropFlipFrameReader:
    """The built-in augmentation: one crop and flip per clip, done by the decoder's filter graph."""

    def __init__(self, config: CropFlip, size: int) -> None:
        self._config, self._size = config, size

    def __call__(
        self, payload: bytes, times: np.ndarray, rng: np.random.Generator, out: np.ndarray
    ) -> None:
        def choose(width: float, height: float) -> Crop:
            return sample_crop(self._config, rng, width, height)

        decode_clip(payload, times, size=self._size, choose_crop=choose, out=out)


class CustomFrameReader:
    """Applies a user's augmentation to uncropped frames.

    Raises, when called:
        RequestError: the augmentation returned another shape or type.
    """

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
    """Draw a crop with a random share of the area and a random aspect ratio (random resized crop).

    The logarithm of the aspect ratio is uniform. If ten draws do not fit into `width` x `height`
    pixels, it is the largest centred crop with an allowed aspect ratio.
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
