"""Where a video is split: even segments to re-encode, and segments at key frames to copy.

No segment contains a jump of the timestamps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from orchestrator.data.codec.timeline import FrameSpan, Seconds, Ticks, has_constant_rate, mean_fps
from orchestrator.data.codec.video_probe import VideoInfo
from orchestrator.errors import DataError


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop` (exclusive) of a video, to be re-encoded."""

    start: int
    stop: int
    fps: Fraction
    duration_s: float
    constant_rate: bool
    """Frames are exactly 1 / `fps` apart; False: they keep their own times."""

    @property
    def frames(self) -> int:
        return self.stop - self.start


def find_segments(info: VideoInfo, max_segment_s: float) -> list[Segment]:
    """Split a video into segments of at most `max_segment_s` seconds.

    A single frame between two jumps of the timestamps is in no segment.
    """
    segments: list[Segment] = []
    for span in info.timeline.spans:
        if span.frames < 2:
            continue
        times, fps = info.frame_times[span.start : span.stop], info.fps_of_span(span)
        span_segments = _constant_rate_segments(span, fps, max_segment_s)
        if not has_constant_rate(times, float(fps)):
            span_segments = _variable_rate_segments(span, times, max_segment_s)
        segments += span_segments
    return segments


def count_isolated_frames(info: VideoInfo) -> int:
    """Number of single frames between two jumps of the timestamps."""
    return sum(span.frames < 2 for span in info.timeline.spans)


def _constant_rate_segments(span: FrameSpan, fps: Fraction, max_segment_s: float) -> list[Segment]:
    longest = max(1, math.floor(max_segment_s * fps + 1e-6))
    count = math.ceil(span.frames / longest)
    bounds = [span.start + span.frames * part // count for part in range(count + 1)]
    return [
        Segment(first, last, fps, float((last - first) / fps), constant_rate=True)
        for first, last in pairwise(bounds)
    ]


def _variable_rate_segments(span: FrameSpan, times: Seconds, max_segment_s: float) -> list[Segment]:
    """Split frames at uneven times into segments as even as the frames allow."""
    interval = float(np.median(np.diff(times)))
    end = float(times[-1]) + interval
    bounds = [0]
    while bounds[-1] < len(times):
        first = bounds[-1]
        parts = math.ceil((end - times[first]) / max_segment_s - 1e-9)
        target = times[first] + (end - times[first]) / max(1, parts)
        last_allowed = int(
            np.searchsorted(times, times[first] + max_segment_s - interval + 1e-9, "right")
        )
        preferred = int(np.searchsorted(times, target - 1e-9)) if parts > 1 else len(times)
        bounds.append(max(first + 1, min(preferred, last_allowed)))
    return [
        _variable_rate_segment(span, times, first, last, interval)
        for first, last in pairwise(bounds)
    ]


def _variable_rate_segment(
    span: FrameSpan, times: Seconds, first: int, last: int, interval: float
) -> Segment:
    segment_times = times[first:last]
    fps = (
        mean_fps(segment_times)
        if last - first > 1
        else Fraction(1 / interval).limit_denominator(1001)
    )
    duration = float(segment_times[-1] - segment_times[0]) + interval
    return Segment(span.start + first, span.start + last, fps, duration, constant_rate=False)


MP4_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg"})
"""Codecs whose encoded stream an mp4 can hold."""


@dataclass(frozen=True)
class CopySegment:
    """Packets `first_packet` to `stop_packet` (exclusive) in coded order, to be copied.

    Those with timestamps from `start_tick` to `stop_tick` (exclusive) are shown. The others are
    needed to decode them and are hidden by an edit list.
    """

    first_packet: int
    stop_packet: int
    start_tick: int
    stop_tick: int
    frames: int
    """Number of frames that are shown."""

    frame_interval_s: float
    """Seconds for which the last frame is shown."""

    unusable_reason: str = ""
    """Why the segment cannot be copied; empty: it can."""


def find_copy_segments(info: VideoInfo, max_segment_s: float) -> list[CopySegment]:
    """Split a video into segments that start at key frames, as even as the key frames allow.

    A segment is longer than `max_segment_s` seconds only where no key frame prevents it.

    Raises:
        DataError: the codec does not fit mp4, or the timestamps do not fit the frames.
    """
    if info.codec not in MP4_CODECS:
        raise DataError(f"codec {info.codec} does not fit mp4: use encode.mode=h264")
    if not info.has_timestamps:
        raise DataError("packets without timestamps cannot be copied: use encode.mode=h264")
    if info.timeline.pts is None:
        raise DataError(
            "its timestamps are missing, repeated or out of order, and a copy would keep them:"
            " use encode.mode=h264"
        )
    if info.num_shown_edits > 1:
        raise DataError(
            f"its edit list shows {info.num_shown_edits} parts one after another, which a copy"
            " cannot: use encode.mode=h264"
        )
    if not info.packets.is_keyframe.any():
        raise DataError("no key frame to cut at: use encode.mode=h264")
    parts = []
    for span in info.timeline.spans:
        if span.frames > 1:
            parts += _segments_of_span(info, info.timeline.pts, span, max_segment_s)
    if not parts:
        raise DataError("its timestamps jump: no two frames follow each other")
    return parts


def _segments_of_span(
    info: VideoInfo, ticks: Ticks, span: FrameSpan, max_segment_s: float
) -> list[CopySegment]:
    span_ticks, time_base = ticks[span.start : span.stop], float(info.time_base)
    interval = 1 / float(info.fps_of_span(span))
    packets = info.packets
    keyframe_ticks = packets.pts[packets.is_keyframe & ~packets.is_discarded]
    starts_at = np.unique(
        np.append(
            span_ticks[0],
            keyframe_ticks[(keyframe_ticks > span_ticks[0]) & (keyframe_ticks <= span_ticks[-1])],
        )
    )
    times = (starts_at - span_ticks[0]) * time_base
    # Timestamps are often rounded to milliseconds, so half a frame more is tolerated.
    length = (span_ticks[-1] - span_ticks[0]) * time_base + interval
    chosen = _choose_keyframes(times, length, max_segment_s + 0.5 * interval)
    starts = [int(starts_at[at]) for at in chosen]
    return [
        _build_segment(info, span_ticks, start, end, interval)
        for start, end in zip(starts, [*starts[1:], int(span_ticks[-1]) + 1], strict=True)
    ]


def _choose_keyframes(times: np.ndarray, duration: float, max_segment_s: float) -> list[int]:
    """Indices of the key frames at which segments start."""
    chosen = [0]
    while True:
        start = times[chosen[-1]]
        candidates = np.arange(chosen[-1] + 1, len(times))
        remaining = math.ceil((duration - start) / max_segment_s)
        if remaining <= 1 or not len(candidates):
            return chosen
        target = start + (duration - start) / remaining
        within = candidates[times[candidates] <= start + max_segment_s]
        distance = np.abs(times[within] - target)
        chosen.append(int(within[distance.argmin()]) if len(within) else int(candidates[0]))


def _build_segment(
    info: VideoInfo, span_ticks: Ticks, start: int, end: int, interval: float
) -> CopySegment:
    ticks, is_keyframe, is_hidden = (
        info.packets.pts,
        info.packets.is_keyframe,
        info.packets.is_discarded,
    )
    is_shown = (ticks >= start) & (ticks < end) & ~is_hidden
    shown_packets = np.flatnonzero(is_shown)
    frames = int(((span_ticks >= start) & (span_ticks < end)).sum())
    keyframes_before = np.flatnonzero(
        is_keyframe[: shown_packets[0] + 1] & (ticks[: shown_packets[0] + 1] <= start)
    )
    unusable_reason = ""
    first, last = (
        int(keyframes_before[-1]) if len(keyframes_before) else 0,
        int(shown_packets[-1]) + 1,
    )
    hidden_inside = is_hidden[first:last] & (ticks[first:last] >= start) & (ticks[first:last] < end)
    if not len(keyframes_before):
        unusable_reason = "no key frame before its first frame: use encode.mode=h264"
    elif hidden_inside.any():
        unusable_reason = "an edit list hides frames within it: use encode.mode=h264"
    return CopySegment(first, last, start, end, frames, interval, unusable_reason)
