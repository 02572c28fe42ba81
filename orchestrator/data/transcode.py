"""Re-encoding a video into even segments that decode fast, in one pass and bounded memory.

Frames are turned upright, scaled down to the short side, and put on a constant rate by
their timestamps: the frame nearest in time is shown, so a constant-rate source keeps every
frame exactly once and a variable-rate one keeps its true speed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import IO, Any

import av
import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from orchestrator.data.encode import PIXELS, Chroma, h264_stream
from orchestrator.data.probe import VideoFacts, open_video
from orchestrator.job import Encode

_LOST_FRAMES = 0.02
"""Share of a segment's frames (or one frame) that a decoder may drop without a complaint."""


@dataclass(frozen=True)
class Piece:
    """One encoded segment."""

    payload: bytes
    frames: int
    fps: float
    width: int
    height: int
    duration_s: float
    codec: str


@dataclass(frozen=True)
class _Shown:
    """A decoded frame: seconds from the video's first frame, and whether it can be trusted."""

    time: float
    picture: Any
    damaged: bool


def transcode(
    file: IO[bytes], facts: VideoFacts, encode: Encode, segments: int
) -> Iterator[Piece | str]:
    """`segments` even pieces, each an mp4; a string is the reason why one cannot be used."""
    bounds = [facts.frames * i // segments for i in range(segments + 1)]
    width, height = scaled_size(facts, encode.short_side)
    file.seek(0)
    with open_video(file) as (container, stream):
        seen: list[float] = []
        shown = _resample(_decode(container, stream, facts, seen), facts)
        shape = Shape(facts, width, height, encode.chroma)
        for first, last in pairwise(bounds):
            encoder = Encoder(width, height, facts.fps, encode)
            damaged = False
            for _ in range(first, last):
                frame = next(shown)
                damaged = damaged or frame.damaged
                encoder.add(shape.apply(frame.picture))
            window = (first / float(facts.fps), last / float(facts.fps))
            lost = _inside(facts.times, window) - _inside(np.asarray(seen), window)
            seen[:] = [time for time in seen if time >= window[1]]
            if damaged:
                yield "damaged frames (the decoder reports errors)"
            elif lost > max(1, _LOST_FRAMES * (last - first)):
                yield f"{lost} of {last - first} frames cannot be decoded"
            else:
                yield encoder.finish()


def scaled_size(facts: VideoFacts, short_side: int) -> tuple[int, int]:
    """Even upright width and height with the short side at most `short_side`, never larger."""
    width, height = facts.upright_square
    scale = min(1.0, short_side / min(width, height))
    return _even(width * scale, width), _even(height * scale, height)


def _even(length: float, limit: int) -> int:
    return max(2, min(2 * round(length / 2), limit - limit % 2))


def _inside(times: np.ndarray, window: tuple[float, float]) -> int:
    return int(np.count_nonzero((times >= window[0] - 1e-9) & (times < window[1] - 1e-9)))


def _decode(container: Any, stream: Any, facts: VideoFacts, seen: list[float]) -> Iterator[_Shown]:
    """Frames in display order. After an error, frames are damaged until the next key frame."""
    base, origin, damaged = stream.time_base, None, False
    number = 0
    for packet in container.demux(stream):
        damaged = damaged or packet.is_corrupt
        try:
            frames = packet.decode()
        except FFmpegError:
            damaged, frames = True, []
        for frame in frames:
            if frame.is_corrupt:
                damaged = True
            elif frame.key_frame and not packet.is_corrupt:
                damaged = False
            tick = frame.pts if frame.pts is not None else frame.dts
            if facts.timed and tick is not None:
                origin = tick if origin is None else origin
                time = float((tick - origin) * base)
            else:
                time = number / float(facts.fps)
            number += 1
            seen.append(time)
            yield _Shown(time, frame, damaged)


def _resample(frames: Iterator[_Shown], facts: VideoFacts) -> Iterator[_Shown]:
    """Exactly `facts.frames` frames at the constant rate `facts.fps`, by nearest timestamp."""
    step = 1.0 / float(facts.fps)
    number, before = 0, None
    for frame in frames:
        if before is not None:
            while number < facts.frames and number * step < (before.time + frame.time) / 2:
                yield before
                number += 1
        before = frame
    while number < facts.frames:
        yield before or _Shown(0.0, None, True)
        number += 1


class Shape:
    """Turns decoded pictures upright, scaled, stored as `PIXELS`, BT.601 limited range."""

    def __init__(self, facts: VideoFacts, width: int, height: int, chroma: Chroma) -> None:
        turned = facts.rotation % 180 != 0
        self._size = (height, width) if turned else (width, height)
        self._rotation = facts.rotation
        self._reformatter, self._pixels = VideoReformatter(), PIXELS[chroma]
        self._graph: Any = None
        self._last: tuple[Any, Any] = (None, None)

    def apply(self, picture: Any) -> Any:
        """The picture as it is stored; None stays None. A repeated picture is not redone."""
        if picture is None:
            return None
        if self._last[0] is not picture:
            self._last = (picture, self._rotate(self._scale(picture)))
        return self._last[1]

    def _scale(self, picture: Any) -> Any:
        return self._reformatter.reformat(
            picture,
            width=self._size[0],
            height=self._size[1],
            format=self._pixels,
            src_colorspace=_matrix(picture),
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation="BICUBIC",
            threads=1,
        )

    def _rotate(self, picture: Any) -> Any:
        # The display matrix turns counterclockwise.
        turns = {90: ["cclock"], 180: ["clock", "clock"], 270: ["clock"]}.get(self._rotation, [])
        if not turns:
            return picture
        picture.pts = None
        if self._graph is None:
            self._graph = _transpose_graph(picture, turns)
        self._graph.push(picture)
        return self._graph.pull()


def _transpose_graph(picture: Any, turns: list[str]) -> Any:
    graph = Graph()
    node = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        time_base=Fraction(1, 1000),
    )
    for turn in turns:
        following = graph.add("transpose", turn)
        node.link_to(following)
        node = following
    node.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _matrix(picture: Any) -> Colorspace:
    """The colour matrix of a picture; where it does not say, what players assume."""
    known = {1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601}
    known |= {7: Colorspace.SMPTE240M, 9: Colorspace.BT2020}
    assumed = Colorspace.ITU709 if picture.height >= 720 else Colorspace.ITU601
    return known.get(int(picture.colorspace), assumed)


class Encoder:
    """One segment's mp4, in memory."""

    def __init__(self, width: int, height: int, fps: Fraction, encode: Encode) -> None:
        self._size, self._fps, self._frames = (width, height), fps, 0
        self._buffer = io.BytesIO()
        self._container: Any = av.open(self._buffer, "w", format="mp4")
        self._stream = h264_stream(
            self._container,
            height,
            width,
            fps,
            gop=encode.gop,
            crf=encode.crf,
            chroma=encode.chroma,
        )

    def add(self, picture: Any) -> None:
        if picture is not None:
            picture.pts = self._frames
            picture.pict_type = 0  # else the source's key frames are forced upon x264
            picture.time_base = 1 / self._fps
            self._container.mux(self._stream.encode(picture))
        self._frames += 1

    def finish(self) -> Piece:
        self._container.mux(self._stream.encode())
        self._container.close()
        return Piece(
            payload=self._buffer.getvalue(),
            frames=self._frames,
            fps=float(self._fps),
            width=self._size[0],
            height=self._size[1],
            duration_s=float(self._frames / self._fps),
            codec="h264",
        )
