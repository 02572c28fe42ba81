"""Whether a video can be trained on as it lies in a tar, read at random and never rewritten."""

from __future__ import annotations

from typing import IO

import numpy as np
from av.error import FFmpegError

from orchestrator.data.codec.container import open_video, reason_of
from orchestrator.data.codec.packet_reader import read_by_time
from orchestrator.data.codec.video_probe import VideoFacts, confirm_order, probe
from orchestrator.errors import DataError

_INDEXED = ("mp4", "matroska")
"""Containers whose demuxers find key frames by an index, or read on to them in order."""

_LOOKED_UP = 128
"""Frames that are looked up in a video whose demuxer may not find them."""

_PACK = "it can be used only re-encoded, by kind: pack with encode.mode=h264"


def probe_in_place(file: IO[bytes]) -> VideoFacts:
    """The facts of a video that is decoded by the times of its frames alone.

    Raises:
        DataError: as `probe`; or its timestamps are missing, out of order or jump, its first frames
            cannot be decoded, or a seek in it does not find the frame at a time.
    """
    facts = confirm_order(file, probe(file))
    ticks = facts.timeline.ticks
    if not facts.timed:
        raise DataError(f"its frames have no timestamps: {_PACK}")
    if ticks is None:
        raise DataError(f"its timestamps are missing, repeated or out of order: {_PACK}")
    if facts.parts > 1:
        raise DataError(f"its edit list shows {facts.parts} parts one after another: {_PACK}")
    if len(facts.timeline.spans) > 1:
        after = facts.timeline.spans[0].last
        gap = float(facts.times[after] - facts.times[after - 1])
        raise DataError(f"its timestamps jump by {gap:.1f} s after frame {after - 1}: {_PACK}")
    if facts.skipped or int(ticks[0]) != facts.start:
        raise DataError(f"its first frame is not at the time at which it begins: {_PACK}")
    if facts.look and facts.look.palette and "mp4" in facts.container:
        raise DataError(f"its palette stands at its beginning only: {_PACK}")
    odd = facts.packets.hidden.any() or facts.packets.untimed.any()
    if odd or not any(name in facts.container for name in _INDEXED):
        _refuse_wrong_seeks(file, facts)
    return facts


def _refuse_wrong_seeks(file: IO[bytes], facts: VideoFacts) -> None:
    """Look up frames all over a video as a training does, each by its time."""
    ticks = facts.timeline.ticks
    assert ticks is not None
    file.seek(0)
    with open_video(file) as (container, stream):
        for number in np.unique(np.linspace(0, facts.frames - 1, _LOOKED_UP).round().astype(int)):
            try:
                _, found = read_by_time(container, stream, facts.times[number : number + 1])
            except FFmpegError as error:
                raise DataError(f"seeking in it fails: {reason_of(error)}: {_PACK}") from None
            except DataError as error:
                raise DataError(f"seeking to frame {number}: {error.what}: {_PACK}") from None
            if not np.array_equal(found, ticks[number : number + 1]):
                raise DataError(f"seeking to frame {number} finds another one: {_PACK}")
