"""Whether a video can be trained on as it lies in a tar, read at random and never rewritten."""

from __future__ import annotations

from typing import IO

import numpy as np
from av.error import FFmpegError

from orchestrator.data.codec.container import ffmpeg_reason, open_video
from orchestrator.data.codec.packet_reader import read_packets_by_time
from orchestrator.data.codec.video_probe import VideoInfo, probe_video, verify_frame_order
from orchestrator.errors import DataError

_SEEKABLE_CONTAINERS = ("mp4", "matroska")
"""Containers whose demuxers find key frames by an index, or read on to them in order."""

_NUM_SEEK_CHECKS = 128
"""Frames that are looked up in a video whose demuxer may not find them."""

_REENCODE_HINT = "it can be used only re-encoded, by kind: pack with encode.mode=h264"


def probe_seekable(file: IO[bytes]) -> VideoInfo:
    """The facts of a video that is decoded by the times of its frames alone.

    Raises:
        DataError: as `probe_video`; or its timestamps are missing, out of order or jump, its first
            frames cannot be decoded, or a seek in it does not find the frame at a time.
    """
    facts = verify_frame_order(file, probe_video(file))
    ticks = facts.timeline.pts
    if not facts.has_timestamps:
        raise DataError(f"its frames have no timestamps: {_REENCODE_HINT}")
    if ticks is None:
        raise DataError(f"its timestamps are missing, repeated or out of order: {_REENCODE_HINT}")
    if facts.num_shown_edits > 1:
        raise DataError(
            f"its edit list shows {facts.num_shown_edits} parts one after another: {_REENCODE_HINT}"
        )
    if len(facts.timeline.spans) > 1:
        after = facts.timeline.spans[0].stop
        gap = float(facts.frame_times[after] - facts.frame_times[after - 1])
        raise DataError(
            f"its timestamps jump by {gap:.1f} s after frame {after - 1}: {_REENCODE_HINT}"
        )
    if facts.undecodable_at_start or int(ticks[0]) != facts.start_tick:
        raise DataError(f"its first frame is not at the time at which it begins: {_REENCODE_HINT}")
    if facts.display_format and facts.display_format.has_palette and "mp4" in facts.container:
        raise DataError(f"its palette stands at its beginning only: {_REENCODE_HINT}")
    odd = facts.packets.is_discarded.any() or facts.packets.lacks_pts.any()
    if odd or not any(name in facts.container for name in _SEEKABLE_CONTAINERS):
        _check_seeks(file, facts)
    return facts


def _check_seeks(file: IO[bytes], facts: VideoInfo) -> None:
    """Look up frames all over a video as a training does, each by its time."""
    ticks = facts.timeline.pts
    assert ticks is not None
    file.seek(0)
    with open_video(file) as (container, stream):
        for number in np.unique(
            np.linspace(0, facts.frames - 1, _NUM_SEEK_CHECKS).round().astype(int)
        ):
            try:
                _, found = read_packets_by_time(
                    container, stream, facts.frame_times[number : number + 1]
                )
            except FFmpegError as error:
                raise DataError(
                    f"seeking in it fails: {ffmpeg_reason(error)}: {_REENCODE_HINT}"
                ) from None
            except DataError as error:
                raise DataError(
                    f"seeking to frame {number}: {error.what}: {_REENCODE_HINT}"
                ) from None
            if not np.array_equal(found, ticks[number : number + 1]):
                raise DataError(f"seeking to frame {number} finds another one: {_REENCODE_HINT}")
