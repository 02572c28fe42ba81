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

from orchestrator.data.codec.color_matrix import matrix_of
from orchestrator.data.codec.container import open_video, reason_of
from orchestrator.data.codec.mp4 import TrackTable, read_table
from orchestrator.data.codec.orientation import Orientation, orientation_of
from orchestrator.data.codec.packet_table import BEFORE_A_JOINT, Packets
from orchestrator.data.codec.timeline import (
    Seconds,
    Span,
    Timeline,
    exact_timeline,
    is_even,
    repaired_timeline,
)
from orchestrator.errors import DataError

_LOST_SHARE, _LOST_SECONDS = 0.02, 1.0

_GUESSED_IN_AVI = ("h264", "hevc")
"""AVI stores when frames are decoded; FFmpeg guesses from it when these are shown, a frame off."""

_FULL = 2
"""FFmpeg's code of full-range colours."""

_PROMISING = ("mp4", "matroska", "avi", "flv", "asf")
"""Containers whose header says how long they are. Others are asked for their last timestamp."""


@dataclass(frozen=True)
class Look:
    """What decides how a decoded frame is shown: its size, the aspect of a pixel, the code of its
    colour matrix, whether its range is full, and whether its colours are from a palette."""

    width: int
    height: int
    pixel: Fraction
    matrix: int | None
    full_range: bool
    palette: bool


def look_of(stream: Any, frame: Any) -> Look:
    """The look of a stream's decoded frame."""
    full = int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj")
    pixel, palette = pixel_aspect(stream.sample_aspect_ratio), bool(frame.format.has_palette)
    return Look(frame.width, frame.height, pixel, matrix_of(frame), full, palette)


@dataclass(frozen=True)
class VideoFacts:
    """One video, as a player shows it.

    `width` and `height` are what a decoder gives, `pixel` is the width of a pixel over its height.
    `packets`: of the picture stream, in coded order. `skipped`: frames before the first one that
    can be decoded; the timeline leaves them out. `start`: tick at which readers take the stream to
    begin. `parts`: how many an edit list shows one after another. `look`: of its first frame.
    """

    codec: str
    container: str
    fps: Fraction
    timeline: Timeline
    width: int
    height: int
    orientation: Orientation
    pixel: Fraction
    timed: bool
    """False for streams without timestamps, whose frames are taken to be even."""

    base: Fraction
    """Seconds of a tick."""

    start: int = 0
    skipped: int = 0
    parts: int = 1
    look: Look | None = None
    packets: Packets = field(default_factory=Packets, repr=False)

    @property
    def times(self) -> Seconds:
        """Seconds of every frame in display order, float64 [frames]; from 0 in the first span."""
        return self.timeline.times

    @property
    def frames(self) -> int:
        return len(self.times)

    @property
    def duration_s(self) -> float:
        """Seconds, the last frame's own included."""
        return float(self.frames / self.fps)

    def fps_of(self, span: Span) -> Fraction:
        """Average frames per second of a part."""
        whole = span.frames == self.frames
        return self.fps if whole else measured_rate(self.times[span.first : span.last])

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the frames that are shown: upright, with square pixels, for which
        one side shrinks."""
        width, height = self.width, self.height
        if self.pixel >= 1:
            height = max(1, round(height / self.pixel))
        else:
            width = max(1, round(width * self.pixel))
        return (height, width) if self.orientation.transpose else (width, height)


def probe(file: IO[bytes], *, decode: bool = False) -> VideoFacts:
    """Read a video through: its packets, and its first frame decoded. Where timestamps cannot be
    right, or where `decode` asks for it, all frames are decoded to see in which order they are
    shown.

    Raises:
        DataError: it is no video, is cut off, has a single frame, or cannot be decoded.
    """
    file.seek(0)
    with open_video(file) as (container, stream):
        indexed = len(stream.index_entries)
        packets, first, end = _read(container, stream)
        _refuse_cut_off(container, stream, packets, indexed, end)
        shown = packets.shown
        if len(shown) < 2:
            raise DataError("one frame is not a video" if len(shown) else "no frames")
        if first is None:
            raise DataError("no frame can be decoded")
        table = read_table(file, stream.id) if "mp4" in container.format.name else TrackTable()
        if table.aperture and table.aperture != (first.width, first.height):
            raise DataError("its clean aperture (clap) crops the frames, which is not followed")
        timed = bool((~packets.untimed).any())
        timeline, skipped = _timeline(
            file, container, stream, packets, first, timed=timed, decode=decode
        )
        fps = _rate(stream, timeline) if timed else _declared_rate(stream)
        return VideoFacts(
            codec=stream.codec.canonical_name,
            container=container.format.name,
            fps=fps,
            timeline=timeline,
            width=first.width,
            height=first.height,
            orientation=orientation_of(first),
            pixel=pixel_aspect(stream.sample_aspect_ratio),
            timed=timed,
            base=Fraction(stream.time_base),
            start=stream.start_time or 0,
            skipped=skipped,
            look=look_of(stream, first),
            parts=table.shown_parts,
            packets=packets,
        )


def confirm_order(file: IO[bytes], facts: VideoFacts) -> VideoFacts:
    """The facts once it is sure that frames are shown in the order of their timestamps.

    Only the decoder knows where frames are coded in another order than shown. An even rate leaves
    no doubt; at uneven times, or with frames before the first key frame, all are decoded.

    Raises:
        DataError: as `probe`.
    """
    if facts.timeline.ticks is None or bool((np.diff(facts.packets.shown) > 0).all()):
        return facts  # not reordered at all; or `probe` has decoded all frames
    spans = [facts.times[one.first : one.last] for one in facts.timeline.spans]
    whole = len(facts.packets.shown) == facts.frames + facts.skipped
    if whole and all(len(own) < 2 or is_even(own, float(measured_rate(own))) for own in spans):
        return facts
    return probe(file, decode=True)


def pixel_aspect(ratio: Fraction | None) -> Fraction:
    """Aspect ratio of a pixel; none or an absurd one counts as square."""
    return ratio if ratio and Fraction(1, 4) <= ratio <= 4 else Fraction(1)


def measured_rate(times: Seconds) -> Fraction:
    """Average frames per second of rising times."""
    measured = (len(times) - 1) / float(times[-1] - times[0])
    return Fraction(measured).limit_denominator(1001) or Fraction(1, 1001)


def decoded_frames(container: Any, stream: Any) -> Iterator[tuple[Any, bool]]:
    """Frames in the order in which they are shown, and whether each is damaged: after an error all
    are, until the next key frame."""
    damaged = False
    for packet, last in _with_joints(container.demux(stream)):
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


def _with_joints(packets: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Packets, and whether one of the next few is a key frame.

    Transport streams call one of the last packets before a joint corrupt, since their counters
    begin anew. What the decoder takes there without a complaint is as good as any.
    """
    waiting: deque[Any] = deque()
    for packet in chain(packets, [None] * BEFORE_A_JOINT):
        waiting.append(packet)
        if len(waiting) > BEFORE_A_JOINT:
            first = waiting.popleft()
            yield first, any(p is not None and p.size and p.is_keyframe for p in waiting)


def _read(container: Any, stream: Any) -> tuple[Packets, Any, float]:
    """The packets of the stream, its first frame, and the second at which the file ends."""
    packets, first, end, cut = Packets(), None, 0.0, False
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
            f"damaged or truncated after {len(packets)} frames: {reason_of(error)}"
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


def _refuse_cut_off(
    container: Any, stream: Any, packets: Packets, indexed: int, end: float
) -> None:
    """Compare what was read with what the header promises; `indexed`: samples that an mp4's table
    listed when it was opened, edits applied."""
    frames, kind = len(packets), container.format.name
    if "mp4" in kind and indexed > 1:
        if frames < indexed - max(2, _LOST_SHARE * indexed):
            raise DataError(f"truncated: {frames} of {indexed} frames are there")
        if len(stream.index_entries) <= indexed:
            return  # every sample of the table is there, whatever duration the header names
    if not container.duration or not any(name in kind for name in _PROMISING):
        return
    # Matroska names the second at which it ends, the others for how long they last.
    start = 0 if "matroska" in kind else (container.start_time or 0)
    promised = (start + container.duration) / 1_000_000
    if end < promised - max(_LOST_SECONDS, _LOST_SHARE * promised):
        raise DataError(
            f"truncated: ends at {end:.1f} s of {promised:.1f} s (or its header is wrong)"
        )


def _timeline(
    file: IO[bytes],
    container: Any,
    stream: Any,
    packets: Packets,
    first: Any,
    *,
    timed: bool,
    decode: bool,
) -> tuple[Timeline, int]:
    """The timeline, and how many frames before the first one that can be decoded it leaves out."""
    if not timed:
        frames = len(packets.shown)
        times = np.arange(frames) / float(_declared_rate(stream))
        return Timeline(times, (Span(0, frames),), None), 0
    base = float(stream.time_base)
    if container.format.name == "avi" and stream.codec_context.name in _GUESSED_IN_AVI:
        coded = np.sort(packets.coded)
        if (np.diff(coded) > 0).all():
            exact = exact_timeline(coded.tolist(), base)
            return Timeline(exact.times, exact.spans, None), 0
    if not decode and packets.in_order(stream.codec_context.reorder_depth):
        ticks = np.sort(packets.shown)
        start = first.pts if first.pts is not None else ticks[0]
        timeline = exact_timeline(ticks[ticks >= start].tolist(), base)
        if len(timeline.times) > 1 and len(timeline.spans) == 1:
            # Players show nothing before the first key frame either; what follows it is lost.
            keys = packets.ticks[packets.keys]
            lost = ticks[ticks < start] >= (keys[0] if len(keys) else ticks[0])
            return timeline, int(lost.sum())
    file.seek(0)
    with open_video(file) as (reader, again):
        again.codec_context.options |= {"skip_loop_filter": "all", "skip_idct": "all"}
        found = [frame.pts for frame, _ in decoded_frames(reader, again)]
    if len(found) < 2:
        raise DataError(f"{len(found)} of {len(packets.shown)} frames can be decoded")
    return repaired_timeline(found, base), 0


def _declared_rate(stream: Any) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate <= 0:
        raise DataError("no timestamps and no frame rate")
    return Fraction(rate).limit_denominator(100_000)


def _rate(stream: Any, timeline: Timeline) -> Fraction:
    """Average frames per second of the longest span; the header's exact fraction where it agrees
    with the times."""
    span = max(timeline.spans, key=lambda span: span.frames)
    if span.frames < 2:
        raise DataError(
            f"its timestamps jump {len(timeline.spans) - 1} times: no two frames follow each other"
        )
    times = timeline.times[span.first : span.last]
    length = float(times[-1] - times[0])
    measured = (len(times) - 1) / length
    for declared in (stream.average_rate, stream.guessed_rate):
        # Rounded timestamps of a short video miss the true rate by up to a tick or two.
        slack = 2 * float(stream.time_base) / length + 1e-4
        if declared and abs(float(declared) / measured - 1) < slack:
            return Fraction(declared).limit_denominator(100_000)
    return measured_rate(times)
