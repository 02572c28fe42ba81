"""From the bytes of a coded clip to uint8 frames: chosen by timestamp, cropped and scaled.

Only what is needed is decoded: from the key frame before the first frame wanted to the last
frame wanted, and of H.264's frames that no other frame refers to only the wanted ones.
One thread per decoder: many clips are decoded side by side, and FFmpeg releases the GIL.
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

# Pictures with nal_ref_idc 0 are never referred to. HEVC's and AV1's counterparts may be, by
# higher temporal layers, so there everything is decoded.
_CODECS_WITH_SKIPPABLE_FRAMES = ("h264",)

STILL_IMAGE_DURATION_S = 0.0
"""Seconds that a picture lasts, by the index: no video does, and that tells them apart."""


def sample_frame_times(
    rng: np.random.Generator, duration_s: float, frames: int, fps: float
) -> np.ndarray:
    """Seconds from a video's first frame at which a clip's frames are taken; float64 [T].

    The start is drawn evenly from all that fit. A picture has one moment, at which all are taken.

    Raises:
        DataError: the video is shorter than a clip.
    """
    if duration_s == STILL_IMAGE_DURATION_S:
        return np.zeros(frames)
    span = (frames - 1) / fps
    room = duration_s - span
    if room <= 0:
        raise DataError(f"lasts {duration_s:.2f} s, a clip needs more than {span:.2f} s")
    return np.asarray(rng.random() * room + np.arange(frames) / fps)


def decode_clip(
    payload: bytes | memoryview,
    times: np.ndarray,
    *,
    size: int | None = None,
    choose_crop: CropFunction | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The frames shown at `times`; uint8 [T, size, size, 3], or [T, H, W, 3] without `size`.

    Args:
        times: float64: seconds from the first frame, ascending. The frame shown at t is the last
            one whose timestamp is not after t. int64: numbers of frames from 0, in the order in
            which they are shown, whatever their timestamps are.
        size: pixels of the square that the crop (default: the whole frame) is scaled to.
        choose_crop: chooses the box once the upright frame's size is known.
        out: where to write, if not into a new array.

    Raises:
        DataError: the payload is not a video, is damaged, or ends before the last time.
    """
    try:
        with open_container(io.BytesIO(payload)) as container:
            stream = select_video_stream(container)
            read = read_packets_by_index if times.dtype.kind == "i" else read_packets_by_time
            packets, chosen = read(container, stream, times)
            picture = is_image_file(container, stream.codec_context.name)
            still = image_orientation(payload) if picture else None
            pixel = sanitize_pixel_aspect(stream.sample_aspect_ratio)
            graph: ClipFilterGraph | None = None
            slots = _output_rows_by_pts(chosen)
            for frame in _decode_wanted(stream.codec_context, packets, set(slots)):
                if graph is None:
                    graph = ClipFilterGraph(
                        still or orientation_of(frame), pixel, size, choose_crop
                    )
                image = graph.to_rgb(frame)
                if out is None:
                    out = np.empty((len(times), *image.shape), np.uint8)
                for slot in slots.pop(frame.pts, ()):
                    out[slot] = image
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"cannot be decoded: {ffmpeg_reason(error)}") from None
    if slots or out is None:
        raise DataError(f"{len(slots)} of {len(set(chosen.tolist()))} frames are missing")
    return out


def _output_rows_by_pts(chosen: np.ndarray) -> dict[int, list[int]]:
    """Where each frame goes, by its timestamp."""
    slots: dict[int, list[int]] = {}
    for slot, tick in enumerate(chosen.tolist()):
        slots.setdefault(tick, []).append(slot)
    return slots


def _decode_wanted(context: Any, packets: list[Any], wanted: set[int]) -> Any:
    """Yield the wanted frames, in the order in which they are shown.

    Raises:
        DataError: one is damaged.
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
