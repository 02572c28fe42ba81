"""Re-encodes a video into even segments that decode fast, in one pass and bounded memory.

Every displayed frame is encoded once, upright and scaled down to the short side. Frames of a
constant rate get exactly that rate; all others keep their display times.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import IO, Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from orchestrator.data.codec.container import decode_frames, open_video
from orchestrator.data.codec.display import (
    BT470BG,
    BT709,
    BT2020,
    FCC,
    SMPTE170M,
    SMPTE240M,
    color_matrix_of,
)
from orchestrator.data.codec.encode import PIXEL_FORMATS, Chroma, add_h264_stream
from orchestrator.data.codec.segments import Segment
from orchestrator.data.codec.timeline import Seconds, Ticks
from orchestrator.data.codec.video_probe import VideoInfo
from orchestrator.job import TranscodeConfig

_MAX_MISSING_FRACTION = 0.02
"""Largest share of a segment's frames (at least one frame) that may fail to decode; with more,
the segment is rejected."""

_FINE_TIME_BASE = Fraction(1, 90_000)
"""Seconds of a tick of segments whose frames keep their own times."""

_COLORSPACES = {
    BT709: Colorspace.ITU709,
    FCC: Colorspace.FCC,
    BT470BG: Colorspace.ITU601,
    SMPTE170M: Colorspace.ITU601,
    SMPTE240M: Colorspace.SMPTE240M,
    BT2020: Colorspace.BT2020,
}


@dataclass(frozen=True)
class EncodedSegment:
    """One segment as an mp4."""

    payload: bytes
    frames: int
    fps: float
    """Average frames per second."""

    width: int
    height: int
    duration_s: float
    codec: str
    missing_frames: int = 0
    """Frames of the segment that could not be decoded."""


def transcode_segments(
    file: IO[bytes], info: VideoInfo, encode: TranscodeConfig, segments: list[Segment]
) -> Iterator[EncodedSegment | str]:
    """An mp4 of each segment; a string is the reason why a segment cannot be used."""
    width, height = scaled_size(info, encode.short_side)
    file.seek(0)
    with open_video(file) as (container, stream):
        frames = _numbered_frames(container, stream, info)
        converter = FrameConverter(info, width, height, encode.chroma)
        end = info.frames, None, ""
        index, frame, frame_fault = next(frames, end)
        for segment in segments:
            encoder = SegmentEncoder(
                width, height, segment.fps, encode, constant_rate=segment.constant_rate
            )
            times = (
                None if segment.constant_rate else info.frame_times[segment.start : segment.stop]
            )
            reason = ""
            while index < segment.stop:
                reason = reason or frame_fault
                if index >= segment.start and not reason:
                    encoder.add(
                        converter.convert(frame),
                        *_tick_and_duration(segment, times, index - segment.start),
                    )
                index, frame, frame_fault = next(frames, end)
            missing = segment.frames - encoder.frames
            if reason:
                yield reason
            elif missing > max(1, _MAX_MISSING_FRACTION * segment.frames) or not encoder.frames:
                yield f"{missing} of {segment.frames} frames cannot be decoded"
            else:
                yield replace(encoder.finish(segment.duration_s), missing_frames=missing)


def _tick_and_duration(
    segment: Segment, times: Seconds | None, index: int
) -> tuple[int, int | None]:
    """Tick and duration (ticks) of a segment's frame; no duration at a constant rate."""
    if times is None:
        return index, None
    ends = [*times[index + 1 : index + 2], times[0] + segment.duration_s]
    first, last = (
        round(float(time - times[0]) / _FINE_TIME_BASE) for time in (times[index], ends[0])
    )
    return first, last - first


def scaled_size(info: VideoInfo, short_side: int) -> tuple[int, int]:
    """Even upright width and height, scaled down to a short side of at most `short_side`."""
    width, height = info.display_size
    scale = min(1.0, short_side / min(width, height))
    return _even(width * scale, width), _even(height * scale, height)


def _even(length: float, limit: int) -> int:
    return max(2, min(2 * round(length / 2), limit - limit % 2))


def _numbered_frames(
    container: Any, stream: Any, info: VideoInfo
) -> Iterator[tuple[int, Any, str]]:
    """Decode a video: (index in the timeline, frame, why it cannot be used) of every frame.

    Frames are identified by their timestamps, or by their order if those had to be repaired.
    """
    ticks, last = info.timeline.pts, -1
    for order, (frame, damaged) in enumerate(decode_frames(container, stream)):
        index = order
        if ticks is not None:
            index = _frame_index_of(frame, ticks)
        if index >= info.frames:
            return
        fault = "damaged frames (the decoder reports errors)" if damaged else ""
        if index <= last and not damaged:
            fault = "its frames are not shown in the order of their timestamps"
        last = max(last, index)
        yield last, frame, fault


def _frame_index_of(frame: Any, ticks: Ticks) -> int:
    """Index of a frame in the timeline; -1 if it is not in it."""
    index = -1 if frame.pts is None else int(np.searchsorted(ticks, frame.pts))
    return index if index < len(ticks) and ticks[index] == frame.pts else -1


class FrameConverter:
    """Converts decoded frames to upright, scaled ones in `PIXEL_FORMATS`, BT.601 limited range."""

    def __init__(self, info: VideoInfo, width: int, height: int, chroma: Chroma) -> None:
        self._orientation = info.orientation
        self._size = (height, width) if self._orientation.transpose else (width, height)
        self._reformatter, self._pixels = VideoReformatter(), PIXEL_FORMATS[chroma]
        self._graph: Any = None

    def convert(self, frame: Any) -> Any:
        """The frame as it is to be encoded."""
        return self._rotate(self._scale(frame))

    def _scale(self, frame: Any) -> Any:
        return self._reformatter.reformat(
            frame,
            width=self._size[0],
            height=self._size[1],
            format=self._pixels,
            src_colorspace=_COLORSPACES[color_matrix_of(frame) or SMPTE170M],
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation="BICUBIC",
            threads=1,
        )

    def _rotate(self, frame: Any) -> Any:
        if not self._orientation.ffmpeg_filters:
            return frame
        frame.pts = None
        if self._graph is None:
            self._graph = _build_rotation_graph(frame, self._orientation.ffmpeg_filters)
        self._graph.push(frame)
        return self._graph.pull()


def _build_rotation_graph(frame: Any, filters: list[tuple[str, str | None]]) -> Any:
    graph = Graph()
    node = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=Fraction(1, 1000),
    )
    for name, arguments in filters:
        next_node = graph.add(name, arguments)
        node.link_to(next_node)
        node = next_node
    node.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


class SegmentEncoder:
    """Encodes one segment to an mp4 in memory.

    Args:
        constant_rate: a tick is `1 / fps` seconds; False: 1 / 90,000 second.
    """

    def __init__(
        self,
        width: int,
        height: int,
        fps: Fraction,
        encode: TranscodeConfig,
        *,
        constant_rate: bool = True,
    ) -> None:
        self._size, self._fps, self._even, self.frames = (width, height), fps, constant_rate, 0
        self._time_base = 1 / fps if constant_rate else _FINE_TIME_BASE
        self._durations: dict[int, int] = {}
        self._buffer = io.BytesIO()
        self._container: Any = av.open(self._buffer, "w", format="mp4")
        self._stream = add_h264_stream(
            self._container,
            height,
            width,
            fps,
            gop=encode.gop,
            crf=encode.crf,
            chroma=encode.chroma,
            time_base=self._time_base,
        )

    def add(self, frame: Any, tick: int, duration: int | None = None) -> None:
        """Append a frame that is shown from `tick` on, for `duration` ticks (None: by the rate)."""
        frame.pts = tick
        frame.pict_type = 0  # otherwise x264 copies the key frames of the source
        frame.time_base = self._time_base
        if duration is not None:
            self._durations[tick] = duration
        self._mux(self._stream.encode(frame))
        self.frames += 1

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._container.mux(packet)

    def finish(self, duration_s: float | None = None) -> EncodedSegment:
        """Finish the mp4; it lasts `duration_s` seconds (None: by the rate)."""
        self._mux(self._stream.encode())
        self._container.close()
        seconds = float(self.frames / self._fps) if duration_s is None else duration_s
        return EncodedSegment(
            payload=self._buffer.getvalue(),
            frames=self.frames,
            fps=float(self._fps) if self._even else self.frames / seconds,
            width=self._size[0],
            height=self._size[1],
            duration_s=seconds,
            codec="h264",
        )
