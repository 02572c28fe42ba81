"""What a video really holds, found by reading it through: frames, times, size, orientation.

Headers are not believed where they can be counted. Nothing but one decoded frame and a few
numbers per frame is kept, so a ten-hour video costs megabytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import IO, Any

import numpy as np
from av.error import FFmpegError

from orchestrator.data.codec.container import ffmpeg_reason, open_video
from orchestrator.data.codec.display import (
    DisplayFormat,
    Orientation,
    display_format_of,
    orientation_of,
    sanitize_pixel_aspect,
    square_pixel_size,
)
from orchestrator.data.codec.mp4 import Mp4TrackInfo, read_track_info
from orchestrator.data.codec.packet_table import MAX_PACKETS_BEFORE_JOIN, PacketTable
from orchestrator.data.codec.timeline import (
    FrameSpan,
    Seconds,
    Timeline,
    exact_timeline,
    has_constant_rate,
    repair_timeline,
)
from orchestrator.errors import DataError

_MAX_MISSING_FRACTION, _MAX_MISSING_S = 0.02, 1.0

_AVI_REORDERED_CODECS = ("h264", "hevc")
"""AVI stores when frames are decoded; FFmpeg guesses from it when these are shown, a frame off."""

_CONTAINERS_WITH_DURATION = ("mp4", "matroska", "avi", "flv", "asf")
"""Containers whose header says how long they are. Others are asked for their last timestamp."""


@dataclass(frozen=True)
class VideoInfo:
    """One video, as a player shows it.

    `width` and `height` are what a decoder gives, `pixel` is the width of a pixel over its height.
    `packets`: of the picture stream, in coded order. `undecodable_at_start`: frames before the
    first one that can be decoded; the timeline leaves them out. `start_tick`: tick at which readers
    take the stream to begin. `num_shown_edits`: how many parts an edit list shows one after
    another. `display_format`: of its first frame.
    """

    codec: str
    container: str
    fps: Fraction
    timeline: Timeline
    width: int
    height: int
    orientation: Orientation
    pixel_aspect: Fraction
    has_timestamps: bool
    """False for streams without timestamps, whose frames are taken to be even."""

    time_base: Fraction
    """Seconds of a tick."""

    start_tick: int = 0
    undecodable_at_start: int = 0
    num_shown_edits: int = 1
    display_format: DisplayFormat | None = None
    packets: PacketTable = field(default_factory=PacketTable, repr=False)

    @property
    def frame_times(self) -> Seconds:
        """Seconds of every frame in display order, float64 [frames]; from 0 in the first span."""
        return self.timeline.times

    @property
    def frames(self) -> int:
        return len(self.frame_times)

    @property
    def duration_s(self) -> float:
        """Seconds, the last frame's own included."""
        return float(self.frames / self.fps)

    def fps_of_span(self, span: FrameSpan) -> Fraction:
        """Average frames per second of a part."""
        whole = span.frames == self.frames
        return self.fps if whole else mean_fps(self.frame_times[span.start : span.stop])

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height of the frames that are shown: upright, with square pixels, for which
        one side shrinks."""
        width, height = square_pixel_size(self.width, self.height, self.pixel_aspect)
        return (height, width) if self.orientation.transpose else (width, height)


def probe_video(file: IO[bytes], *, decode_all: bool = False) -> VideoInfo:
    """Read a video through: its packets, and its first frame decoded. Where timestamps cannot be
    right, or where `decode` asks for it, all frames are decoded to see in which order they are
    shown.

    Raises:
        DataError: it is no video, is cut off, has a single frame, or cannot be decoded.
    """
    file.seek(0)
    with open_video(file) as (container, stream):
        indexed = len(stream.index_entries)
        packets, first, end = _read_packets(container, stream)
        _check_not_truncated(container, stream, packets, indexed, end)
        shown = packets.shown_pts
        if len(shown) < 2:
            raise DataError("one frame is not a video" if len(shown) else "no frames")
        if first is None:
            raise DataError("no frame can be decoded")
        table = (
            read_track_info(file, stream.id) if "mp4" in container.format.name else Mp4TrackInfo()
        )
        if table.clean_aperture and table.clean_aperture != (first.width, first.height):
            raise DataError("its clean aperture (clap) crops the frames, which is not followed")
        timed = bool((~packets.lacks_pts).any())
        timeline, skipped = _build_timeline(
            file, container, stream, packets, first, timed=timed, decode=decode_all
        )
        fps = _average_fps(stream, timeline) if timed else _declared_fps(stream)
        return VideoInfo(
            codec=stream.codec.canonical_name,
            container=container.format.name,
            fps=fps,
            timeline=timeline,
            width=first.width,
            height=first.height,
            orientation=orientation_of(first),
            pixel_aspect=sanitize_pixel_aspect(stream.sample_aspect_ratio),
            has_timestamps=timed,
            time_base=Fraction(stream.time_base),
            start_tick=stream.start_time or 0,
            undecodable_at_start=skipped,
            display_format=display_format_of(stream, first),
            num_shown_edits=table.num_shown_edits,
            packets=packets,
        )


def verify_frame_order(file: IO[bytes], facts: VideoInfo) -> VideoInfo:
    """The facts once it is sure that frames are shown in the order of their timestamps.

    Only the decoder knows where frames are coded in another order than shown. An even rate leaves
    no doubt; at uneven times, or with frames before the first key frame, all are decoded.

    Raises:
        DataError: as `probe_video`.
    """
    if facts.timeline.pts is None or bool((np.diff(facts.packets.shown_pts) > 0).all()):
        return facts  # not reordered at all; or `probe_video` has decoded all frames
    spans = [facts.frame_times[one.start : one.stop] for one in facts.timeline.spans]
    whole = len(facts.packets.shown_pts) == facts.frames + facts.undecodable_at_start
    if whole and all(len(own) < 2 or has_constant_rate(own, float(mean_fps(own))) for own in spans):
        return facts
    return probe_video(file, decode_all=True)


def mean_fps(times: Seconds) -> Fraction:
    """Average frames per second of rising times."""
    measured = (len(times) - 1) / float(times[-1] - times[0])
    return Fraction(measured).limit_denominator(1001) or Fraction(1, 1001)


def decode_frames(container: Any, stream: Any) -> Iterator[tuple[Any, bool]]:
    """Frames in the order in which they are shown, and whether each is damaged: after an error all
    are, until the next key frame."""
    damaged = False
    for packet, last in _mark_near_keyframe(container.demux(stream)):
        damaged = damaged or (packet.is_corrupt and not last)
        try:
            frames = packet.decode()
        except FFmpegError:
            damaged, frames = True, []
        for frame in frames:
            if frame.is_corrupt:
                damaged = True
            elif frame.key_frame and (last or not packet.is_corrupt):
                damaged = False
            yield frame, damaged


def _mark_near_keyframe(packets: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Packets, and whether one of the next few is a key frame.

    Transport streams call one of the last packets before a joint corrupt, since their counters
    begin anew. What the decoder takes there without a complaint is as good as any.
    """
    waiting: deque[Any] = deque()
    for packet in chain(packets, [None] * MAX_PACKETS_BEFORE_JOIN):
        waiting.append(packet)
        if len(waiting) > MAX_PACKETS_BEFORE_JOIN:
            first = waiting.popleft()
            yield first, any(p is not None and p.size and p.is_keyframe for p in waiting)


def _read_packets(container: Any, stream: Any) -> tuple[PacketTable, Any, float]:
    """The packets of the stream, its first frame, and the second at which the file ends."""
    packets, first, end, cut = PacketTable(), None, 0.0, False
    try:
        for packet in container.demux():
            if packet.time_base and packet.pts is not None:
                length = packet.duration or 0
                end = max(end, float((packet.pts + length) * packet.time_base))
            if packet.stream.index != stream.index or not packet.size:
                continue
            cut = packet.is_corrupt
            packets.add(packet)
            first = first or _first_frame(packet)
        first = first or _first_frame(None, stream)
    except FFmpegError as error:
        raise DataError(
            f"damaged or truncated after {len(packets)} frames: {ffmpeg_reason(error)}"
        ) from None
    if cut:  # by the last packet; one that is damaged on the way costs its segment only
        raise DataError(f"truncated: cut inside frame {len(packets) - 1}")
    return packets, first, end


def _first_frame(packet: Any, stream: Any = None) -> Any:
    """The first frame that the decoder gives, or None; damage is judged when all is decoded."""
    try:
        frames = packet.decode() if packet is not None else stream.decode(None)
    except FFmpegError:
        return None
    return frames[0] if frames else None


def _check_not_truncated(
    container: Any, stream: Any, packets: PacketTable, indexed: int, end: float
) -> None:
    """Compare what was read with what the header promises; `indexed`: samples that an mp4's table
    listed when it was opened, edits applied."""
    frames, kind = len(packets), container.format.name
    if "mp4" in kind and indexed > 1:
        if frames < indexed - max(2, _MAX_MISSING_FRACTION * indexed):
            raise DataError(f"truncated: {frames} of {indexed} frames are there")
        if len(stream.index_entries) <= indexed:
            return  # every sample of the table is there, whatever duration the header names
    if not container.duration or not any(name in kind for name in _CONTAINERS_WITH_DURATION):
        return
    # Matroska names the second at which it ends, the others for how long they last.
    start = 0 if "matroska" in kind else (container.start_time or 0)
    promised = (start + container.duration) / 1_000_000
    if end < promised - max(_MAX_MISSING_S, _MAX_MISSING_FRACTION * promised):
        raise DataError(
            f"truncated: ends at {end:.1f} s of {promised:.1f} s (or its header is wrong)"
        )


def _build_timeline(
    file: IO[bytes],
    container: Any,
    stream: Any,
    packets: PacketTable,
    first: Any,
    *,
    timed: bool,
    decode: bool,
) -> tuple[Timeline, int]:
    """The timeline, and how many frames before the first one that can be decoded it leaves out."""
    if not timed:
        frames = len(packets.shown_pts)
        times = np.arange(frames) / float(_declared_fps(stream))
        return Timeline(times, (FrameSpan(0, frames),), None), 0
    base = float(stream.time_base)
    if container.format.name == "avi" and stream.codec_context.name in _AVI_REORDERED_CODECS:
        coded = np.sort(packets.dts)
        if (np.diff(coded) > 0).all():
            exact = exact_timeline(coded.tolist(), base)
            return Timeline(exact.times, exact.spans, None), 0
    if not decode and packets.is_plausible_display_order(stream.codec_context.reorder_depth):
        ticks = np.sort(packets.shown_pts)
        start = first.pts if first.pts is not None else ticks[0]
        timeline = exact_timeline(ticks[ticks >= start].tolist(), base)
        if len(timeline.times) > 1 and len(timeline.spans) == 1:
            # Players show nothing before the first key frame either; what follows it is lost.
            keys = packets.pts[packets.is_keyframe]
            lost = ticks[ticks < start] >= (keys[0] if len(keys) else ticks[0])
            return timeline, int(lost.sum())
    file.seek(0)
    with open_video(file) as (reader, again):
        again.codec_context.options |= {"skip_loop_filter": "all", "skip_idct": "all"}
        found = [frame.pts for frame, _ in decode_frames(reader, again)]
    if len(found) < 2:
        raise DataError(f"{len(found)} of {len(packets.shown_pts)} frames can be decoded")
    return repair_timeline(found, base), 0


def _declared_fps(stream: Any) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate <= 0:
        raise DataError("no timestamps and no frame rate")
    return Fraction(rate).limit_denominator(100_000)


def _average_fps(stream: Any, timeline: Timeline) -> Fraction:
    """Average frames per second of the longest span; the header's exact fraction where it agrees
    with the times."""
    span = max(timeline.spans, key=lambda span: span.frames)
    if span.frames < 2:
        raise DataError(
            f"its timestamps jump {len(timeline.spans) - 1} times: no two frames follow each other"
        )
    times = timeline.times[span.start : span.stop]
    length = float(times[-1] - times[0])
    measured = (len(times) - 1) / length
    for declared in (stream.average_rate, stream.guessed_rate):
        # Rounded timestamps of a short video miss the true rate by up to a tick or two.
        slack = 2 * float(stream.time_base) / length + 1e-4
        if declared and abs(float(declared) / measured - 1) < slack:
            return Fraction(declared).limit_denominator(100_000)
    return mean_fps(times)
