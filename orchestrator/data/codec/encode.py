"""Encodes frames as H.264 in an mp4, for packing and for generated video."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

Chroma = Literal["half", "full"]

PIXEL_FORMATS: dict[Chroma, str] = {"half": "yuv420p", "full": "yuv444p"}
"""FFmpeg pixel formats, by the resolution of chroma."""

BT601_MATRIX = 6  # what swscale converts RGB with; written into the file for decoders
LIMITED_RANGE = 1


def encode_h264(
    frames: Iterable[npt.NDArray[np.uint8]],
    fps: Fraction | float,
    gop: int,
    crf: int,
    chroma: Chroma = "half",
) -> bytes:
    """Encode frames as H.264 in an mp4, tuned to decode fast.

    The same frames give the same bytes: one thread, fixed options, no timestamps of creation.

    Args:
        frames: uint8 `[H, W, 3]` RGB, all of one size; H and W are even (4:2:0).
        fps: frames per second; NTSC rates such as 30000/1001 are kept exactly.
        gop: frames between key frames.
        crf: x264's constant rate factor, 0 to 51.
        chroma: resolution of the colour planes: half of that of luma, or the same.

    Raises:
        ValueError: no frames, an odd or changing size, or not uint8 RGB.
    """
    buffer = io.BytesIO()
    container: Any = None
    stream: Any = None
    to_yuv = VideoReformatter()
    shape: tuple[int, ...] = ()
    for index, frame in enumerate(frames):
        _check_frame(frame, shape)
        if container is None:
            shape = frame.shape
            container = av.open(buffer, "w", format="mp4")
            rate = Fraction(fps).limit_denominator(1001)
            stream = add_h264_stream(
                container, shape[0], shape[1], rate, gop=gop, crf=crf, chroma=chroma
            )
        # One thread: on small frames swscale's thread pool takes three times as long as the work.
        converted = to_yuv.reformat(
            av.VideoFrame.from_ndarray(frame, format="rgb24"),
            format=PIXEL_FORMATS[chroma],
            threads=1,
        )
        converted.pts = index
        converted.time_base = stream.codec_context.time_base
        container.mux(stream.encode(converted))
    if container is None:
        raise ValueError("no frames to encode")
    container.mux(stream.encode())
    container.close()
    return buffer.getvalue()


def _check_frame(frame: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    if frame.shape[0] % 2 or frame.shape[1] % 2:
        raise ValueError(f"height and width must be even, not {frame.shape[0]}x{frame.shape[1]}")
    if shape and frame.shape != shape:
        raise ValueError(f"frames change size: {list(shape)}, then {list(frame.shape)}")


def add_h264_stream(
    container: Any,
    height: int,
    width: int,
    fps: Fraction,
    *,
    gop: int,
    crf: int,
    chroma: Chroma = "half",
    time_base: Fraction | None = None,
) -> Any:
    """Add the H.264 stream that all encoders use; its frames are `PIXEL_FORMATS`, BT.601.

    Args:
        container: PyAV container opened for writing.
        gop: frames between key frames.
        crf: x264's constant rate factor, 0 to 51.
        time_base: seconds of a tick of the frames' timestamps; None: `1 / fps`.
    """
    options = {
        "preset": "veryfast",
        "tune": "fastdecode",
        "crf": str(crf),
        "g": str(gop),
        # x264's macroblock tree reads uninitialised memory: the same frames would give other bytes.
        "mbtree": "0",
    }
    stream = container.add_stream("libx264", rate=fps, options=options)
    stream.height, stream.width = height, width
    stream.pix_fmt = PIXEL_FORMATS[chroma]
    context = stream.codec_context
    context.thread_count = 1
    context.time_base = time_base or 1 / fps
    context.colorspace = BT601_MATRIX
    context.color_range = LIMITED_RANGE
    return stream
