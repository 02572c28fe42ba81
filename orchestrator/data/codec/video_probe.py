"""Probes a video by reading all of it: frames, display times, size, orientation, truncation.

Numbers in headers are not trusted where they can be counted. Only one decoded frame and a few
numbers per frame are kept, so a ten-hour video takes megabytes of memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import IO, Any

import numpy as np
from av.error import FFmpegError

from orchestrator.data.codec.container import decode_frames, ffmpeg_reason, open_video
from orchestrator.data.codec.display import (
    DisplayFormat,
    Orientation,
    display_format_of,
    orientation_of,
    sanitize_pixel_aspect,
    square_pixel_size,
)
from orchestrator.data.codec.mp4 import Mp4TrackInfo, read_track_info
from orchestrator.data.codec.packet_table import PacketTable
from orchestrator.data.codec.timeline import (
    FrameSpan,
    Seconds,
    Timeline,
    exact_timeline,
    has_constant_rate,
    mean_fps,
    repair_timeline,
)
from orchestrator.errors import DataError

_MAX_MISSING_FRACTION, _MAX_MISSING_S = 0.02, 1.0

_AVI_REORDERED_CODECS = ("h264", "hevc")
"""AVI stores decoding times; FFmpeg guesses display times from them that are a frame off."""

_CONTAINERS_WITH_DURATION = ("mp4", "matroska", "avi", "flv", "asf")
"""Containers whose header has a duration. FFmpeg takes that of others from the last timestamp."""


@dataclass(frozen=True)
class VideoInfo:
    """The result of probing a video; what a player shows of it."""

    codec: str
    container: str
    fps: Fraction
    timeline: Timeline
    width: int
    """Pixels of a decoded frame, before it is turned upright; likewise `height`."""

    height: int
    orientation: Orientation
    pixel_aspect: Fraction
    """Width of a pixel over its height."""

    has_timestamps: bool
    """False for streams without timestamps, whose frames are assumed to be evenly spaced."""

    time_base: Fraction
    """Seconds of a tick."""

    start_tick: int = 0
    """Tick at which readers assume that the stream begins."""

    undecodable_at_start: int = 0
    """Frames before the first one that can be decoded; they are not in the timeline."""

    num_shown_edits: int = 1
    """Parts of the track that its edit list shows one after another."""

    display_format: DisplayFormat | None = None
    """That of the first frame."""

    packets: PacketTable = field(default_factory=PacketTable, repr=False)
    """All packets of the video stream, in coded order."""

    @property
    def frame_times(self) -> Seconds:
        """Seconds of every frame in display order, float64 [frames]; from 0 in the first span."""
        return self.timeline.times

    @property
    def frames(self) -> int:
        return len(self.frame_times)

    @property
    def duration_s(self) -> float:
        """Seconds, including the display time of the last frame."""
        return float(self.frames / self.fps)

    def fps_of_span(self, span: FrameSpan) -> Fraction:
        """Average frames per second of a span."""
        if span.frames == self.frames:
            return self.fps
        return mean_fps(self.frame_times[span.start : span.stop])

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height of the displayed frames: upright, with square pixels."""
        width, height = square_pixel_size(self.width, self.height, self.pixel_aspect)
        return (height, width) if self.orientation.transpose else (width, height)


def probe_video(file: IO[bytes], *, decode_all: bool = False) -> VideoInfo:
    """Probe a video: read all of its packets and decode its first frame.

    All frames are decoded where the timestamps are implausible, to find their display order.

    Args:
        decode_all: decode all frames in any case.

    Raises:
        DataError: it is not a video, is truncated, has a single frame, or cannot be decoded.
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
        track = (
            read_track_info(file, stream.id) if "mp4" in container.format.name else Mp4TrackInfo()
        )
        if track.clean_aperture and track.clean_aperture != (first.width, first.height):
            raise DataError("its clean aperture (clap) crops the frames, which is not supported")
        has_timestamps = bool((~packets.lacks_pts).any())
        timeline, skipped = _build_timeline(
            file,
            container,
            stream,
            packets,
            first,
            has_timestamps=has_timestamps,
            decode_all=decode_all,
        )
        fps = _average_fps(stream, timeline) if has_timestamps else _declared_fps(stream)
        return VideoInfo(
            codec=stream.codec.canonical_name,
            container=container.format.name,
            fps=fps,
            timeline=timeline,
            width=first.width,
            height=first.height,
            orientation=orientation_of(first),
            pixel_aspect=sanitize_pixel_aspect(stream.sample_aspect_ratio),
            has_timestamps=has_timestamps,
            time_base=Fraction(stream.time_base),
            start_tick=stream.start_time or 0,
            undecodable_at_start=skipped,
            display_format=display_format_of(stream, first),
            num_shown_edits=track.num_shown_edits,
            packets=packets,
        )


def verify_frame_order(file: IO[bytes], info: VideoInfo) -> VideoInfo:
    """Make sure that the frames are shown in the order of their timestamps.

    Where frames are coded in another order than shown, only decoding tells. A constant rate proves
    the order; at uneven times, or with frames before the first key frame, all are decoded.

    Returns:
        `info`, or the result of probing again with all frames decoded.

    Raises:
        DataError: as `probe_video`.
    """
    if info.timeline.pts is None or bool((np.diff(info.packets.shown_pts) > 0).all()):
        return info  # not reordered, or `probe_video` has decoded all frames
    spans = [info.frame_times[span.start : span.stop] for span in info.timeline.spans]
    all_decodable = len(info.packets.shown_pts) == info.frames + info.undecodable_at_start
    if all_decodable and all(
        len(times) < 2 or has_constant_rate(times, float(mean_fps(times))) for times in spans
    ):
        return info
    return probe_video(file, decode_all=True)


def _read_packets(container: Any, stream: Any) -> tuple[PacketTable, Any, float]:
    """Read all packets and the first frame of the stream, and the time (seconds) the file ends at.

    Raises:
        DataError: the file is damaged or truncated.
    """
    packets, first, end, ends_corrupt = PacketTable(), None, 0.0, False
    try:
        for packet in container.demux():
            if packet.time_base and packet.pts is not None:
                length = packet.duration or 0
                end = max(end, float((packet.pts + length) * packet.time_base))
            if packet.stream.index != stream.index or not packet.size:
                continue
            ends_corrupt = packet.is_corrupt
            packets.add(packet)
            first = first or _first_frame(packet)
        first = first or _first_frame(None, stream)
    except FFmpegError as error:
        raise DataError(
            f"damaged or truncated after {len(packets)} frames: {ffmpeg_reason(error)}"
        ) from None
    if ends_corrupt:  # the last packet; a damaged one before it makes only its own segment unusable
        raise DataError(f"truncated: cut inside frame {len(packets) - 1}")
    return packets, first, end


def _first_frame(packet: Any, stream: Any = None) -> Any:
    """The first frame from the decoder, or None; its errors are reported by later decoding."""
    try:
        frames = packet.decode() if packet is not None else stream.decode(None)
    except FFmpegError:
        return None
    return frames[0] if frames else None


def _check_not_truncated(
    container: Any, stream: Any, packets: PacketTable, indexed: int, end: float
) -> None:
    """Compare the packets that were read with the header.

    Args:
        indexed: samples in an mp4's table when it was opened, after its edit list.
        end: time in seconds at which the packets end.

    Raises:
        DataError: the file is truncated.
    """
    frames, kind = len(packets), container.format.name
    if "mp4" in kind and indexed > 1:
        if frames < indexed - max(2, _MAX_MISSING_FRACTION * indexed):
            raise DataError(f"truncated: has {frames} of {indexed} frames")
        if len(stream.index_entries) <= indexed:
            return  # every sample of the table was read, whatever duration the header has
    if not container.duration or not any(name in kind for name in _CONTAINERS_WITH_DURATION):
        return
    # Matroska stores the time at which it ends, the others how long they last.
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
    has_timestamps: bool,
    decode_all: bool,
) -> tuple[Timeline, int]:
    """The timeline, and how many undecodable frames at the start it does not include."""
    if not has_timestamps:
        frames = len(packets.shown_pts)
        times = np.arange(frames) / float(_declared_fps(stream))
        return Timeline(times, (FrameSpan(0, frames),), None), 0
    base = float(stream.time_base)
    if container.format.name == "avi" and stream.codec_context.name in _AVI_REORDERED_CODECS:
        coded = np.sort(packets.dts)
        if (np.diff(coded) > 0).all():
            exact = exact_timeline(coded.tolist(), base)
            return Timeline(exact.times, exact.spans, None), 0
    if not decode_all and packets.is_plausible_display_order(stream.codec_context.reorder_depth):
        ticks = np.sort(packets.shown_pts)
        start = first.pts if first.pts is not None else ticks[0]
        timeline = exact_timeline(ticks[ticks >= start].tolist(), base)
        if len(timeline.times) > 1 and len(timeline.spans) == 1:
            # Players show nothing before the first key frame either; frames after it are lost.
            keys = packets.pts[packets.is_keyframe]
            lost = ticks[ticks < start] >= (keys[0] if len(keys) else ticks[0])
            return timeline, int(lost.sum())
    file.seek(0)
    with open_video(file) as (reader, stream_again):
        stream_again.codec_context.options |= {"skip_loop_filter": "all", "skip_idct": "all"}
        pts = [frame.pts for frame, _ in decode_frames(reader, stream_again)]
    if len(pts) < 2:
        raise DataError(f"{len(pts)} of {len(packets.shown_pts)} frames can be decoded")
    return repair_timeline(pts, base), 0


def _declared_fps(stream: Any) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate <= 0:
        raise DataError("no timestamps and no frame rate")
    return Fraction(rate).limit_denominator(100_000)


def _average_fps(stream: Any, timeline: Timeline) -> Fraction:
    """Average frames per second of the longest span: the header's fraction if the times agree.

    Raises:
        DataError: no span has two frames.
    """
    span = max(timeline.spans, key=lambda span: span.frames)
    if span.frames < 2:
        raise DataError(
            f"its timestamps jump {len(timeline.spans) - 1} times: no two frames follow each other"
        )
    times = timeline.times[span.start : span.stop]
    length = float(times[-1] - times[0])
    measured = (len(times) - 1) / length
    for declared in (stream.average_rate, stream.guessed_rate):
        # Rounded timestamps of a short video give a rate that is wrong by a tick or two.
        slack = 2 * float(stream.time_base) / length + 1e-4
        if declared and abs(float(declared) / measured - 1) < slack:
            return Fraction(declared).limit_denominator(100_000)
    return mean_fps(times)
