"""Crops, scales, turns and mirrors decoded frames with FFmpeg filter graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from orchestrator.data.codec.color_matrix import FILTER_NAMES, matrix_of
from orchestrator.data.codec.orientation import Orientation

_KEPT_GRAPHS = 8
"""Filter graphs of a thread: enough for whole frames, mirrored or not, of some sizes; random crops
are hardly ever met again."""

_LIMITED, _FULL = 1, 2

Filters = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Crop:
    """A box in pixels of the upright frame, and whether it is mirrored."""

    x: float
    y: float
    width: float
    height: float
    flip: bool = False


ChooseCrop = Callable[[float, float], Crop]
"""From the upright frame's width and height to a crop."""


class ClipGraph:
    """From the decoded frames of one clip to pixels: one crop of all, whatever size each has.

    Args:
        pixel: width of a stored pixel over its height.
        size: pixels of the square that the crop is scaled to; None: the first frame's own size,
            with square pixels.
        choose: draws the crop, once; None: the whole frame.
    """

    def __init__(
        self,
        orientation: Orientation,
        pixel: Fraction,
        size: int | None,
        choose: ChooseCrop | None,
    ) -> None:
        self._orientation, self._pixel = orientation, float(pixel)
        self._size, self._choose = size, choose
        self._first: tuple[int, int] | None = None
        self._crop = Crop(0, 0, 0, 0)
        self._like: tuple[Any, ...] = ()
        self._graph: Any = None

    def image(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3], upright."""
        if _geometry(frame) != self._like:
            self._like, self._graph = _geometry(frame), _graph(frame, self._filters(frame))
        try:
            self._graph.push(frame)
            image: np.ndarray = self._graph.pull().to_ndarray()
        except av.FFmpegError:
            _thread.graphs.clear()  # the next clip must not get what this one left in it
            raise
        return image

    def _filters(self, frame: Any) -> Filters:
        stored = (float(frame.width) * self._pixel, float(frame.height))
        upright = self._orientation.upright(*stored)
        if self._first is None:
            self._first = frame.width, frame.height
            self._crop = self._choose(*upright) if self._choose else Crop(0, 0, *upright)
        # A video may change its size on the way: players show all of it at the first size.
        share_x, share_y = frame.width / self._first[0], frame.height / self._first[1]
        across, down = self._orientation.upright(share_x, share_y)
        crop = self._crop
        box = (crop.x * across, crop.y * down, crop.width * across, crop.height * down)
        x, y, width, height = self._orientation.stored_box(box, upright)
        filters: Filters
        filters = [("crop", _even_box(x / self._pixel, y, width / self._pixel, height, frame))]
        if self._size is not None:
            # First to the size, then to RGB: half the time of swscale's direct way.
            filters += [("scale", f"{self._size}:{self._size}:flags=bilinear")]
            filters += [("format", _stored(frame))]
        elif self._choose is None:
            filters += self._squared(frame)
        filters += self._orientation.filters + ([("hflip", None)] if crop.flip else [])
        return [*filters, ("scale", None), ("format", "rgb24"), ("buffersink", None)]

    def _squared(self, frame: Any) -> Filters:
        """Whole frames get square pixels, and the size of the first, where they differ."""
        assert self._first is not None
        width, height = square(*self._first, self._pixel)
        if (width, height) == (frame.width, frame.height):
            return []
        return [("scale", f"{width}:{height}:flags=bicubic")]


def square(width: int, height: int, pixel: float) -> tuple[int, int]:
    """Size of a frame once its pixels, `pixel` times as wide as high, are square: one side
    shrinks."""
    if pixel >= 1:
        return width, max(1, round(height / pixel))
    return max(1, round(width * pixel)), height


def _stored(frame: Any) -> str:
    """Colour at full resolution where the video has it, else at half."""
    return "yuv444p" if frame.format.name == "yuv444p" else "yuv420p"


def _geometry(frame: Any) -> tuple[Any, ...]:
    return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range


def _even_box(x: float, y: float, width: float, height: float, frame: Any) -> str:
    """As the crop filter takes it: even numbers (two pixels share a chroma sample), inside."""
    w = min(max(round(width / 2) * 2, 2), frame.width)
    h = min(max(round(height / 2) * 2, 2), frame.height)
    left = min(max(int(x), 0), frame.width - w) // 2 * 2
    top = min(max(int(y), 0), frame.height - h) // 2 * 2
    return f"{w}:{h}:{left}:{top}"


class _Thread(threading.local):
    """What a thread keeps from clip to clip: to build a graph takes longer than a small clip's
    frames in it."""

    def __init__(self) -> None:
        self.graphs: dict[tuple[tuple[str, str | None], ...], Any] = {}


_thread = _Thread()


def _graph(frame: Any, filters: Filters) -> Any:
    source = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
    matrix = matrix_of(frame)
    if matrix is not None:
        source += f":colorspace={FILTER_NAMES[matrix]}"
    if frame.color_range in (_LIMITED, _FULL):
        source += f":range={'tv' if frame.color_range == _LIMITED else 'pc'}"
    nodes = (("buffer", source), *filters)
    kept = _thread.graphs
    if nodes not in kept:
        if len(kept) >= _KEPT_GRAPHS:
            kept.pop(next(iter(kept)))
        kept[nodes] = _built(nodes)
    return kept[nodes]


def _built(nodes: tuple[tuple[str, str | None], ...]) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(*(graph.add(name, args) for name, args in nodes))
    graph.configure()
    return graph
