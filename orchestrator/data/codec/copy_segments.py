"""Which packets a piece of a copied video takes, and which of them it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from orchestrator.data.codec.timeline import FrameSpan, Ticks
from orchestrator.data.codec.video_probe import VideoInfo
from orchestrator.errors import DataError

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
