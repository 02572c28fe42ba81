"""Checks whether a video in a tar can be trained on without re-encoding, by seeking in it."""

from __future__ import annotations

from typing import IO

import numpy as np
from av.error import FFmpegError

from orchestrator.data.codec.container import ffmpeg_reason, open_video
from orchestrator.data.codec.packet_reader import read_packets_by_time
from orchestrator.data.codec.video_probe import VideoInfo, probe_video, verify_frame_order
from orchestrator.errors import DataError

_SEEKABLE_CONTAINERS = ("mp4", "matroska")
"""Containers whose demuxers find key frames reliably: by an index, or by reading on in order."""

_NUM_SEEK_CHECKS = 128
"""Frames that are seeked to in a video of another container, or with unusual packets."""

_REENCODE_HINT = "it can be used only re-encoded, by kind: pack with encode.mode=h264"


def probe_seekable(file: IO[bytes]) -> VideoInfo:
    """Probe a video that has to be decodable by the times of its frames alone.

    Raises:
        DataError: as `probe_video`; or its timestamps are missing, out of order or jump, its first
            frames cannot be decoded, or seeking to a time does not find the frame.
    """
    info = verify_frame_order(file, probe_video(file))
    ticks = info.timeline.pts
    if not info.has_timestamps:
        raise DataError(f"its frames have no timestamps: {_REENCODE_HINT}")
    if ticks is None:
        raise DataError(f"its timestamps are missing, repeated or out of order: {_REENCODE_HINT}")
    if info.num_shown_edits > 1:
        raise DataError(
            f"its edit list shows {info.num_shown_edits} parts one after another: {_REENCODE_HINT}"
        )
    if len(info.timeline.spans) > 1:
        after = info.timeline.spans[0].stop
        gap = float(info.frame_times[after] - info.frame_times[after - 1])
        raise DataError(
            f"its timestamps jump by {gap:.1f} s after frame {after - 1}: {_REENCODE_HINT}"
        )
    if info.undecodable_at_start or int(ticks[0]) != info.start_tick:
        raise DataError(f"its first frame is not at the time at which it begins: {_REENCODE_HINT}")
    if info.display_format and info.display_format.has_palette and "mp4" in info.container:
        raise DataError(f"its palette is stored at its beginning only: {_REENCODE_HINT}")
    has_unusual_packets = info.packets.is_discarded.any() or info.packets.lacks_pts.any()
    if has_unusual_packets or not any(name in info.container for name in _SEEKABLE_CONTAINERS):
        _check_seeks(file, info)
    return info


def _check_seeks(file: IO[bytes], info: VideoInfo) -> None:
    """Seek to frames spread over a video by their times, as training does.

    Raises:
        DataError: a seek fails or finds another frame.
    """
    ticks = info.timeline.pts
    assert ticks is not None
    file.seek(0)
    with open_video(file) as (container, stream):
        for number in np.unique(
            np.linspace(0, info.frames - 1, _NUM_SEEK_CHECKS).round().astype(int)
        ):
            try:
                _, pts = read_packets_by_time(
                    container, stream, info.frame_times[number : number + 1]
                )
            except FFmpegError as error:
                raise DataError(
                    f"seeking in it fails: {ffmpeg_reason(error)}: {_REENCODE_HINT}"
                ) from None
            except DataError as error:
                raise DataError(
                    f"seeking to frame {number}: {error.what}: {_REENCODE_HINT}"
                ) from None
            if not np.array_equal(pts, ticks[number : number + 1]):
                raise DataError(f"seeking to frame {number} finds another frame: {_REENCODE_HINT}")
