"""Crops, scales, rotates and mirrors decoded frames with FFmpeg filter graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from orchestrator.data.codec.display import (
    FFMPEG_MATRIX_NAMES,
    Orientation,
    color_matrix_of,
    square_pixel_size,
)

_MAX_CACHED_GRAPHS = 8
"""Filter graphs cached per thread: enough for uncropped frames of a few sizes, mirrored or not.
Random crops hardly ever repeat."""

_LIMITED, _FULL = 1, 2

Filters = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Crop:
    """A box in pixels of the upright frame, and whether the result is mirrored."""

    x: float
    y: float
    width: float
    height: float
    hflip: bool = False


CropFunction = Callable[[float, float], Crop]
"""Chooses a crop from the width and height of the upright frame."""


class ClipFilterGraph:
    """Converts the decoded frames of one clip to RGB, all with the same crop, whatever their size.

    Args:
        pixel_aspect: width of a stored pixel over its height.
        size: side in pixels of the square that the crop is scaled to; None: the size of the first
            frame, with square pixels.
        choose_crop: called once to choose the crop; None: the full frame.
    """

    def __init__(
        self,
        orientation: Orientation,
        pixel_aspect: Fraction,
        size: int | None,
        choose_crop: CropFunction | None,
    ) -> None:
        self._orientation, self._pixel = orientation, float(pixel_aspect)
        self._size, self._choose = size, choose_crop
        self._first_size: tuple[int, int] | None = None
        self._crop = Crop(0, 0, 0, 0)
        self._frame_format: tuple[Any, ...] = ()
        self._graph: Any = None

    def to_rgb(self, frame: Any) -> np.ndarray:
        """The frame as uint8 [H, W, 3], upright."""
        if _frame_format_of(frame) != self._frame_format:
            self._frame_format, self._graph = (
                _frame_format_of(frame),
                _cached_graph(frame, self._filters(frame)),
            )
        try:
            self._graph.push(frame)
            image: np.ndarray = self._graph.pull().to_ndarray()
        except av.FFmpegError:
            _thread_cache.graphs.clear()  # a graph that failed may still hold frames of this clip
            raise
        return image

    def _filters(self, frame: Any) -> Filters:
        stored = (float(frame.width) * self._pixel, float(frame.height))
        upright = self._orientation.display_size(*stored)
        if self._first_size is None:
            self._first_size = frame.width, frame.height
            self._crop = self._choose(*upright) if self._choose else Crop(0, 0, *upright)
        # A video may change its size: players show all of it at the first size.
        scale_x, scale_y = frame.width / self._first_size[0], frame.height / self._first_size[1]
        upright_scale_x, upright_scale_y = self._orientation.display_size(scale_x, scale_y)
        crop = self._crop
        box = (
            crop.x * upright_scale_x,
            crop.y * upright_scale_y,
            crop.width * upright_scale_x,
            crop.height * upright_scale_y,
        )
        x, y, width, height = self._orientation.stored_box(box, upright)
        filters: Filters
        filters = [("crop", _even_box(x / self._pixel, y, width / self._pixel, height, frame))]
        if self._size is not None:
            # Scaling before converting to RGB takes half the time of swscale doing both at once.
            filters += [("scale", f"{self._size}:{self._size}:flags=bilinear")]
            filters += [("format", _chroma_format(frame))]
        elif self._choose is None:
            filters += self._square_pixel_filters(frame)
        filters += self._orientation.ffmpeg_filters + ([("hflip", None)] if crop.hflip else [])
        return [*filters, ("scale", None), ("format", "rgb24"), ("buffersink", None)]

    def _square_pixel_filters(self, frame: Any) -> Filters:
        """Filters that give uncropped frames square pixels and the size of the first frame."""
        assert self._first_size is not None
        width, height = square_pixel_size(*self._first_size, self._pixel)
        if (width, height) == (frame.width, frame.height):
            return []
        return [("scale", f"{width}:{height}:flags=bicubic")]


def _chroma_format(frame: Any) -> str:
    """The pixel format in which the frame is scaled: full chroma resolution if it has that."""
    return "yuv444p" if frame.format.name == "yuv444p" else "yuv420p"


def _frame_format_of(frame: Any) -> tuple[Any, ...]:
    return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range


def _even_box(x: float, y: float, width: float, height: float, frame: Any) -> str:
    """A box inside the frame as arguments of FFmpeg's crop filter.

    All numbers are even, since two pixels share a chroma sample.
    """
    w = min(max(round(width / 2) * 2, 2), frame.width)
    h = min(max(round(height / 2) * 2, 2), frame.height)
    left = min(max(int(x), 0), frame.width - w) // 2 * 2
    top = min(max(int(y), 0), frame.height - h) // 2 * 2
    return f"{w}:{h}:{left}:{top}"


class _ThreadCache(threading.local):
    """Filter graphs that a thread reuses for other clips.

    Building a graph takes longer than filtering the frames of a small clip.
    """

    def __init__(self) -> None:
        self.graphs: dict[tuple[tuple[str, str | None], ...], Any] = {}


_thread_cache = _ThreadCache()


def _cached_graph(frame: Any, filters: Filters) -> Any:
    source = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
    matrix = color_matrix_of(frame)
    if matrix is not None:
        source += f":colorspace={FFMPEG_MATRIX_NAMES[matrix]}"
    if frame.color_range in (_LIMITED, _FULL):
        source += f":range={'tv' if frame.color_range == _LIMITED else 'pc'}"
    nodes = (("buffer", source), *filters)
    graphs = _thread_cache.graphs
    if nodes not in graphs:
        if len(graphs) >= _MAX_CACHED_GRAPHS:
            graphs.pop(next(iter(graphs)))
        graphs[nodes] = _build_graph(nodes)
    return graphs[nodes]


def _build_graph(nodes: tuple[tuple[str, str | None], ...]) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(*(graph.add(name, args) for name, args in nodes))
    graph.configure()
    return graph
