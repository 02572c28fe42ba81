"""Pictures: one moment that stands still, beside video in a training."""

from __future__ import annotations

import io
from typing import IO

import av

from orchestrator.data.codec.container import MAX_PIXELS, ffmpeg_reason, open_container
from orchestrator.data.codec.decode import STILL_IMAGE_DURATION_S
from orchestrator.data.codec.orientation import image_orientation
from orchestrator.data.sources.base import RawClip
from orchestrator.errors import DataError

EXTENSION_BY_CODEC = {"mjpeg": "jpg", "png": "png", "webp": "webp"}
"""Of a picture's name, by its codec."""


MAX_IMAGE_BYTES = 2**28
"""Largest file that is read: it is held in memory as a whole."""


def read_image(file: IO[bytes], key: str, source: str) -> RawClip:
    """A picture as a clip of one frame, its bytes as they are; decoded once to see that it is
    whole.

    Raises:
        DataError: it is no jpeg, png or webp, is damaged, too large, or moves.
    """
    payload = file.read(MAX_IMAGE_BYTES + 1)
    if len(payload) > MAX_IMAGE_BYTES:
        raise DataError(f"is larger than {MAX_IMAGE_BYTES} bytes")
    try:
        with open_container(io.BytesIO(payload)) as container:
            if not container.streams.video:
                raise DataError("no picture")
            context = container.streams.video[0].codec_context
            if context.name not in EXTENSION_BY_CODEC:
                raise DataError(f"is {context.name}, not a jpeg, png or webp picture")
            _check_pixel_count(context.width, context.height)
            # Without it FFmpeg fills what is missing of a jpeg with grey.
            context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            context.thread_count = 1
            frames = list(container.decode(video=0))
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"damaged, or not a readable picture: {ffmpeg_reason(error)}") from None
    # Phones put a second jpeg behind the first (MPO, gain maps): viewers show the first.
    if not frames or (len(frames) > 1 and context.name != "mjpeg"):
        raise DataError(f"{len(frames)} frames are not a picture")
    still = image_orientation(payload)
    width, height = map(int, still.display_size(frames[0].width, frames[0].height))
    return RawClip(
        key=key,
        payload=payload,
        frames=1,
        fps=0.0,
        width=width,
        height=height,
        duration_s=STILL_IMAGE_DURATION_S,
        source=source,
        codec=context.name,
        extension=EXTENSION_BY_CODEC[context.name],
    )


def _check_pixel_count(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}x{height} pixels are too large (at most {MAX_PIXELS} pixels)")
