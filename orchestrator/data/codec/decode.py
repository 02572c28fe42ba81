"""Decodes an encoded clip to uint8 frames, chosen by time or index, cropped and scaled.

Only needed frames are decoded: from the key frame before the first wanted frame to the last wanted
frame; unwanted H.264 frames that no other frame refers to are skipped. Each decoder uses one
thread: many clips are decoded in parallel, and FFmpeg releases the GIL.
"""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np

from orchestrator.data.codec.container import ffmpeg_reason, open_container, select_video_stream
from orchestrator.data.codec.display import (
    image_orientation,
    is_image_file,
    orientation_of,
    sanitize_pixel_aspect,
)
from orchestrator.data.codec.filter_graph import ClipFilterGraph, Crop, CropFunction
from orchestrator.data.codec.packet_reader import read_packets_by_index, read_packets_by_time
from orchestrator.errors import DataError

__all__ = ["STILL_IMAGE_DURATION_S", "Crop", "CropFunction", "decode_clip", "sample_frame_times"]

# H.264 frames with nal_ref_idc 0 are never referred to. Their counterparts in HEVC and AV1 may be,
# by higher temporal layers, so those codecs decode everything.
_CODECS_WITH_SKIPPABLE_FRAMES = ("h264",)

STILL_IMAGE_DURATION_S = 0.0
"""Duration in seconds of an image in the index; no video has it, so it identifies images."""


def sample_frame_times(
    rng: np.random.Generator, duration_s: float, frames: int, fps: float
) -> np.ndarray:
    """Draw the times of a clip's frames, in seconds from the video's first frame; float64 [T].

    The start is uniform over all starts with which the clip fits. An image has all frames at 0.

    Raises:
        DataError: the video is shorter than a clip.
    """
    if duration_s == STILL_IMAGE_DURATION_S:
        return np.zeros(frames)
    span = (frames - 1) / fps
    latest_start = duration_s - span
    if latest_start <= 0:
        raise DataError(f"lasts {duration_s:.2f} s, a clip needs more than {span:.2f} s")
    return np.asarray(rng.random() * latest_start + np.arange(frames) / fps)


def decode_clip(
    payload: bytes | memoryview,
    times: np.ndarray,
    *,
    size: int | None = None,
    choose_crop: CropFunction | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decode the frames shown at `times`; uint8 [T, size, size, 3], or [T, H, W, 3] without `size`.

    Args:
        times: float64 for times in seconds from the first frame, ascending: the frame shown at t
            is the last one with a timestamp of at most t. int64 for indices of frames from 0 in
            display order, independent of timestamps.
        size: side in pixels of the square that the crop (default: the full frame) is scaled to.
        choose_crop: chooses the crop from the upright frame's size.
        out: array to write into; None: a new one.

    Raises:
        DataError: the payload is not a video, is damaged, or ends before the last time.
    """
    try:
        with open_container(io.BytesIO(payload)) as container:
            stream = select_video_stream(container)
            read_packets = (
                read_packets_by_index if times.dtype.kind == "i" else read_packets_by_time
            )
            packets, pts = read_packets(container, stream, times)
            is_image = is_image_file(container, stream.codec_context.name)
            exif_orientation = image_orientation(payload) if is_image else None
            pixel_aspect = sanitize_pixel_aspect(stream.sample_aspect_ratio)
            graph: ClipFilterGraph | None = None
            rows_by_pts = _output_rows_by_pts(pts)
            for frame in _decode_wanted(stream.codec_context, packets, set(rows_by_pts)):
                if graph is None:
                    graph = ClipFilterGraph(
                        exif_orientation or orientation_of(frame), pixel_aspect, size, choose_crop
                    )
                image = graph.to_rgb(frame)
                if out is None:
                    out = np.empty((len(times), *image.shape), np.uint8)
                for row in rows_by_pts.pop(frame.pts, ()):
                    out[row] = image
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"cannot be decoded: {ffmpeg_reason(error)}") from None
    if rows_by_pts or out is None:
        raise DataError(f"{len(rows_by_pts)} of {len(set(pts.tolist()))} frames are missing")
    return out


def _output_rows_by_pts(pts: np.ndarray) -> dict[int, list[int]]:
    """Rows of the output for each frame, by the frame's timestamp."""
    rows: dict[int, list[int]] = {}
    for row, tick in enumerate(pts.tolist()):
        rows.setdefault(tick, []).append(row)
    return rows


def _decode_wanted(context: Any, packets: list[Any], wanted: set[int]) -> Any:
    """Yield the frames with the wanted timestamps, in display order.

    Raises:
        DataError: a wanted frame is damaged.
    """
    context.thread_type, context.thread_count = "NONE", 1
    may_skip = context.name in _CODECS_WITH_SKIPPABLE_FRAMES
    last = max(i for i, packet in enumerate(packets) if packet.pts in wanted)
    skipping = False
    for packet in [*packets[: last + 1], None]:
        if may_skip and packet is not None and (packet.pts not in wanted) != skipping:
            skipping = not skipping
            context.skip_frame = "NONREF" if skipping else "DEFAULT"
        for frame in context.decode(packet):
            if frame.pts in wanted:
                if frame.is_corrupt:
                    raise DataError(f"is damaged at {frame.time:.2f} s")
                yield frame
