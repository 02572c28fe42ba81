"""Where a timeline is cut: even segments that no jump of the clock lies in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from orchestrator.data.codec.timeline import FrameSpan, Seconds, Ticks, has_constant_rate
from orchestrator.data.codec.video_probe import VideoInfo, mean_fps
from orchestrator.errors import DataError


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop` (exclusive). `constant_rate`: they are one interval of `fps`
    apart."""

    start: int
    stop: int
    fps: Fraction
    duration_s: float
    constant_rate: bool

    @property
    def frames(self) -> int:
        return self.stop - self.start


def find_segments(facts: VideoInfo, max_segment_s: float) -> list[Segment]:
    """Segments of at most `longest_s` seconds. Frames that stand alone between two jumps of the
    clock are in none."""
    segments: list[Segment] = []
    for span in facts.timeline.spans:
        if span.frames < 2:
            continue
        times, fps = facts.frame_times[span.start : span.stop], facts.fps_of_span(span)
        found = _constant_rate_segments(span, fps, max_segment_s)
        if not has_constant_rate(times, float(fps)):
            found = _variable_rate_segments(span, times, max_segment_s)
        segments += found
    return segments


def count_isolated_frames(facts: VideoInfo) -> int:
    """How many frames stand alone between two jumps of the clock."""
    return sum(span.frames < 2 for span in facts.timeline.spans)


def _constant_rate_segments(span: FrameSpan, fps: Fraction, longest_s: float) -> list[Segment]:
    longest = max(1, math.floor(longest_s * fps + 1e-6))
    count = math.ceil(span.frames / longest)
    bounds = [span.start + span.frames * part // count for part in range(count + 1)]
    return [
        Segment(first, last, fps, float((last - first) / fps), constant_rate=True)
        for first, last in pairwise(bounds)
    ]


def _variable_rate_segments(span: FrameSpan, times: Seconds, longest_s: float) -> list[Segment]:
    """Cuts between frames that are shown at their own times: as even as the frames allow."""
    interval = float(np.median(np.diff(times)))
    end = float(times[-1]) + interval
    bounds = [0]
    while bounds[-1] < len(times):
        first = bounds[-1]
        parts = math.ceil((end - times[first]) / longest_s - 1e-9)
        target = times[first] + (end - times[first]) / max(1, parts)
        within = int(np.searchsorted(times, times[first] + longest_s - interval + 1e-9, "right"))
        wanted = int(np.searchsorted(times, target - 1e-9)) if parts > 1 else len(times)
        bounds.append(max(first + 1, min(wanted, within)))
    return [
        _variable_rate_segment(span, times, first, last, interval)
        for first, last in pairwise(bounds)
    ]


def _variable_rate_segment(
    span: FrameSpan, times: Seconds, first: int, last: int, interval: float
) -> Segment:
    own = times[first:last]
    fps = mean_fps(own) if last - first > 1 else Fraction(1 / interval).limit_denominator(1001)
    duration = float(own[-1] - own[0]) + interval
    return Segment(span.start + first, span.start + last, fps, duration, constant_rate=False)


MP4_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg"})
"""Codecs whose coded stream an mp4 can hold."""


@dataclass(frozen=True)
class CopySegment:
    """Packets `first` to `last` (exclusive) in coded order, of which those with timestamps from
    `start` to `end` (exclusive) are shown: `frames` of them.

    The others are needed to decode them: they are hidden by an edit list. `interval`: seconds for
    which the last frame is shown.
    """

    first_packet: int
    stop_packet: int
    start_tick: int
    stop_tick: int
    frames: int
    frame_interval_s: float
    unusable_reason: str = ""
    """Why it cannot be copied."""


def find_copy_segments(facts: VideoInfo, max_segment_s: float) -> list[CopySegment]:
    """Parts that start at key frames, as even and at most as long as the key frames allow.

    Raises:
        DataError: the codec does not fit mp4, or the timestamps do not fit the pictures.
    """
    if facts.codec not in MP4_CODECS:
        raise DataError(f"codec {facts.codec} does not fit mp4: use encode.mode=h264")
    if not facts.has_timestamps:
        raise DataError("packets without timestamps cannot be copied: use encode.mode=h264")
    if facts.timeline.pts is None:
        raise DataError(
            "its timestamps are missing, repeated or out of order, and a copy would keep them:"
            " use encode.mode=h264"
        )
    if facts.num_shown_edits > 1:
        raise DataError(
            f"its edit list shows {facts.num_shown_edits} parts one after another, which a copy"
            " cannot: use encode.mode=h264"
        )
    if not facts.packets.is_keyframe.any():
        raise DataError("no key frame to cut at: use encode.mode=h264")
    parts = []
    for span in facts.timeline.spans:
        if span.frames > 1:
            parts += _segments_of_span(facts, facts.timeline.pts, span, max_segment_s)
    if not parts:
        raise DataError("its timestamps jump: no two frames follow each other")
    return parts


def _segments_of_span(
    facts: VideoInfo, ticks: Ticks, span: FrameSpan, longest_s: float
) -> list[CopySegment]:
    own, base = ticks[span.start : span.stop], float(facts.time_base)
    interval = 1 / float(facts.fps_of_span(span))
    packets = facts.packets
    keys = packets.pts[packets.is_keyframe & ~packets.is_discarded]
    cuts = np.unique(np.append(own[0], keys[(keys > own[0]) & (keys <= own[-1])]))
    times = (cuts - own[0]) * base
    # Timestamps are often rounded to milliseconds: half a frame more is no longer segment.
    length = (own[-1] - own[0]) * base + interval
    chosen = _choose_keyframes(times, length, longest_s + 0.5 * interval)
    starts = [int(cuts[at]) for at in chosen]
    return [
        _build_segment(facts, own, start, end, interval)
        for start, end in zip(starts, [*starts[1:], int(own[-1]) + 1], strict=True)
    ]


def _choose_keyframes(times: np.ndarray, duration: float, longest_s: float) -> list[int]:
    """Where parts start. One is longer than `longest_s` only where no key frame helps."""
    cuts = [0]
    while True:
        here = times[cuts[-1]]
        later = np.arange(cuts[-1] + 1, len(times))
        pieces = math.ceil((duration - here) / longest_s)
        if pieces <= 1 or not len(later):
            return cuts
        target = here + (duration - here) / pieces
        within = later[times[later] <= here + longest_s]
        near = np.abs(times[within] - target)
        cuts.append(int(within[near.argmin()]) if len(within) else int(later[0]))


def _build_segment(
    facts: VideoInfo, own: Ticks, start: int, end: int, interval: float
) -> CopySegment:
    ticks, keys, hidden = facts.packets.pts, facts.packets.is_keyframe, facts.packets.is_discarded
    wanted = (ticks >= start) & (ticks < end) & ~hidden
    coded = np.flatnonzero(wanted)
    frames = int(((own >= start) & (own < end)).sum())
    before = np.flatnonzero(keys[: coded[0] + 1] & (ticks[: coded[0] + 1] <= start))
    fault = ""
    first, last = int(before[-1]) if len(before) else 0, int(coded[-1]) + 1
    inside = hidden[first:last] & (ticks[first:last] >= start) & (ticks[first:last] < end)
    if not len(before):
        fault = "no key frame before its first frame: use encode.mode=h264"
    elif inside.any():
        fault = "an edit list hides frames within it: use encode.mode=h264"
    return CopySegment(first, last, start, end, frames, interval, fault)
