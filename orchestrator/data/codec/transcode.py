"""Re-encoding a video into even segments that decode fast, in one pass and bounded memory.

Every frame that is shown is encoded once, upright, scaled down to the short side. Frames of an
even rate are put on that rate exactly; all others keep the times at which they are shown.
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

from orchestrator.data.codec.container import open_video
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
from orchestrator.data.codec.video_probe import VideoInfo, decode_frames
from orchestrator.job import TranscodeConfig

_MAX_MISSING_FRACTION = 0.02
"""Share of a segment's frames (or one frame) that a decoder may drop before the segment is."""

_FINE_TIME_BASE = Fraction(1, 90_000)
"""Seconds of a tick where frames keep their own times."""

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
    """One encoded segment. `fps`: frames per second, on average. `lost`: frames that it should have
    besides, which could not be decoded."""

    payload: bytes
    frames: int
    fps: float
    width: int
    height: int
    duration_s: float
    codec: str
    missing_frames: int = 0


def transcode_segments(
    file: IO[bytes], facts: VideoInfo, encode: TranscodeConfig, segments: list[Segment]
) -> Iterator[EncodedSegment | str]:
    """An mp4 of each segment; a string is the reason why one cannot be used."""
    width, height = scaled_size(facts, encode.short_side)
    file.seek(0)
    with open_video(file) as (container, stream):
        numbered = _numbered_frames(container, stream, facts)
        shape = FrameConverter(facts, width, height, encode.chroma)
        end = facts.frames, None, ""
        at, picture, fault = next(numbered, end)
        for segment in segments:
            encoder = SegmentEncoder(
                width, height, segment.fps, encode, constant_rate=segment.constant_rate
            )
            times = (
                None if segment.constant_rate else facts.frame_times[segment.start : segment.stop]
            )
            reason = ""
            while at < segment.stop:
                reason = reason or fault
                if at >= segment.start and not reason:
                    encoder.add(
                        shape.convert(picture),
                        *_tick_and_duration(segment, times, at - segment.start),
                    )
                at, picture, fault = next(numbered, end)
            lost = segment.frames - encoder.frames
            if reason:
                yield reason
            elif lost > max(1, _MAX_MISSING_FRACTION * segment.frames) or not encoder.frames:
                yield f"{lost} of {segment.frames} frames cannot be decoded"
            else:
                yield replace(encoder.finish(segment.duration_s), missing_frames=lost)


def _tick_and_duration(
    segment: Segment, times: Seconds | None, number: int
) -> tuple[int, int | None]:
    """Tick and duration of a segment's frame; even frames all last as long."""
    if times is None:
        return number, None
    ends = [*times[number + 1 : number + 2], times[0] + segment.duration_s]
    first, last = (
        round(float(time - times[0]) / _FINE_TIME_BASE) for time in (times[number], ends[0])
    )
    return first, last - first


def scaled_size(facts: VideoInfo, short_side: int) -> tuple[int, int]:
    """Even upright width and height with the short side at most `short_side`, never larger."""
    width, height = facts.display_size
    scale = min(1.0, short_side / min(width, height))
    return _even(width * scale, width), _even(height * scale, height)


def _even(length: float, limit: int) -> int:
    return max(2, min(2 * round(length / 2), limit - limit % 2))


def _numbered_frames(
    container: Any, stream: Any, facts: VideoInfo
) -> Iterator[tuple[int, Any, str]]:
    """(number in the timeline, frame, why it cannot be used) of every frame. Frames are known by
    their timestamps, or by their order where those had to be repaired."""
    ticks, last = facts.timeline.pts, -1
    for order, (frame, damaged) in enumerate(decode_frames(container, stream)):
        number = order
        if ticks is not None:
            number = _frame_index_of(frame, ticks)
        if number >= facts.frames:
            return
        fault = "damaged frames (the decoder reports errors)" if damaged else ""
        if number <= last and not damaged:
            fault = "its frames are not shown in the order of their timestamps"
        last = max(last, number)
        yield last, frame, fault


def _frame_index_of(frame: Any, ticks: Ticks) -> int:
    """Where a frame stands in the timeline; -1 if nowhere."""
    number = -1 if frame.pts is None else int(np.searchsorted(ticks, frame.pts))
    return number if number < len(ticks) and ticks[number] == frame.pts else -1


class FrameConverter:
    """Turns decoded pictures upright, scaled, stored as `PIXEL_FORMATS`, BT.601 limited range."""

    def __init__(self, facts: VideoInfo, width: int, height: int, chroma: Chroma) -> None:
        self._orientation = facts.orientation
        self._size = (height, width) if self._orientation.transpose else (width, height)
        self._reformatter, self._pixels = VideoReformatter(), PIXEL_FORMATS[chroma]
        self._graph: Any = None

    def convert(self, picture: Any) -> Any:
        """The picture as it is stored."""
        return self._rotate(self._scale(picture))

    def _scale(self, picture: Any) -> Any:
        return self._reformatter.reformat(
            picture,
            width=self._size[0],
            height=self._size[1],
            format=self._pixels,
            src_colorspace=_COLORSPACES[color_matrix_of(picture) or SMPTE170M],
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation="BICUBIC",
            threads=1,
        )

    def _rotate(self, picture: Any) -> Any:
        if not self._orientation.ffmpeg_filters:
            return picture
        picture.pts = None
        if self._graph is None:
            self._graph = _build_rotation_graph(picture, self._orientation.ffmpeg_filters)
        self._graph.push(picture)
        return self._graph.pull()


def _build_rotation_graph(picture: Any, filters: list[tuple[str, str | None]]) -> Any:
    graph = Graph()
    node = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        time_base=Fraction(1, 1000),
    )
    for name, arguments in filters:
        following = graph.add(name, arguments)
        node.link_to(following)
        node = following
    node.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


class SegmentEncoder:
    """One segment's mp4, in memory. `constant_rate`: frames are counted in ticks of `1 / fps`
    seconds, else in ticks of 1 / 90,000 second."""

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

    def add(self, picture: Any, tick: int, duration: int | None = None) -> None:
        """Append a picture that is shown from `tick` on, for `duration` ticks."""
        picture.pts = tick
        picture.pict_type = 0  # else the source's key frames are forced upon x264
        picture.time_base = self._time_base
        if duration is not None:
            self._durations[tick] = duration
        self._mux(self._stream.encode(picture))
        self.frames += 1

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._container.mux(packet)

    def finish(self, duration_s: float | None = None) -> EncodedSegment:
        """The mp4; it lasts `duration_s` (default: by the rate)."""
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
