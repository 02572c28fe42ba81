"""How a decoded frame is displayed: orientation, pixel aspect ratio and colour matrix."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.errors import DataError

_QUARTER_TURN_TOLERANCE = math.tan(math.radians(1))
"""A display matrix within one degree of a quarter turn counts as one, as in the ffmpeg command."""


_EXIF_TAG = 0x0112


_IMAGE_CODECS = ("mjpeg", "png", "webp")


Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""


@dataclass(frozen=True)
class Orientation:
    """How a stored frame is turned for display: transposed first, then mirrored, then flipped."""

    transpose: bool = False
    """Rows become columns."""

    hflip: bool = False
    """Left and right are swapped."""

    vflip: bool = False
    """Top and bottom are swapped."""

    def display_size(self, width: float, height: float) -> tuple[float, float]:
        """Width and height of the displayed frame, from those of the stored one."""
        return (height, width) if self.transpose else (width, height)

    def stored_box(self, box: Box, display_size: tuple[float, float]) -> Box:
        """The box in the stored frame of a `box` in the displayed one.

        Args:
            display_size: width and height of the displayed frame.
        """
        x, y, width, height = box
        if self.hflip:
            x = display_size[0] - x - width
        if self.vflip:
            y = display_size[1] - y - height
        return (y, x, height, width) if self.transpose else (x, y, width, height)

    @property
    def ffmpeg_filters(self) -> list[tuple[str, str | None]]:
        """FFmpeg filters (name, arguments) that turn a stored frame into the displayed one."""
        if self.transpose:
            return [("transpose", _TRANSPOSE[self.hflip, self.vflip])]
        mirror: list[tuple[str, str | None]] = [("hflip", None)] if self.hflip else []
        return mirror + ([("vflip", None)] if self.vflip else [])


_TRANSPOSE = {
    (False, False): "cclock_flip",
    (True, False): "clock",
    (False, True): "cclock",
    (True, True): "clock_flip",
}


# EXIF orientation 1 to 8.
_BY_EXIF = {
    1: Orientation(),
    2: Orientation(hflip=True),
    3: Orientation(hflip=True, vflip=True),
    4: Orientation(vflip=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, hflip=True),
    7: Orientation(transpose=True, hflip=True, vflip=True),
    8: Orientation(transpose=True, vflip=True),
}


def orientation_of(frame: Any) -> Orientation:
    """The orientation of a decoded video frame, from its display matrix.

    Raises:
        DataError: the matrix is no quarter turn, or cannot be read.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18.1 has no name for some newer kinds of side data
        if frame.rotation:
            raise DataError(
                "its display matrix cannot be read: the frame has unknown side data"
            ) from None
        return Orientation()
    if matrix is None:
        return Orientation()
    return orientation_from_matrix(np.frombuffer(bytes(matrix), np.int32))


def orientation_from_matrix(matrix: np.ndarray) -> Orientation:
    """The orientation that a display matrix describes; int32 [9], rows a b u, c d v, x y w.

    Raises:
        DataError: it turns by another angle than a quarter turn.
    """
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    if not math.hypot(a, c) or not math.hypot(b, d):
        return Orientation()  # a degenerate matrix: players ignore it
    if abs(b) <= _QUARTER_TURN_TOLERANCE * abs(a) and abs(c) <= _QUARTER_TURN_TOLERANCE * abs(d):
        return Orientation(hflip=a < 0, vflip=d < 0)
    if abs(a) <= _QUARTER_TURN_TOLERANCE * abs(b) and abs(d) <= _QUARTER_TURN_TOLERANCE * abs(c):
        return Orientation(transpose=True, hflip=c < 0, vflip=b < 0)
    raise DataError(
        f"its display matrix turns by {math.degrees(math.atan2(b, a)):.0f} degrees, not by a"
        " quarter turn"
    )


def is_image_file(container: Any, codec: str) -> bool:
    """Whether a container is a single image file, whose orientation is in its EXIF data."""
    name: str = container.format.name
    return codec in _IMAGE_CODECS and (name.endswith("_pipe") or name.startswith("image2"))


def image_orientation(payload: bytes | memoryview) -> Orientation:
    """The orientation of a jpeg, png or webp image, from EXIF tag 274; upright without one.

    PyAV 18.1 cannot read it: it refuses the side data of frames that carry EXIF data.
    """
    try:
        with Image.open(io.BytesIO(payload)) as image:
            value = image.getexif().get(_EXIF_TAG, 1)
    except Exception:  # damaged EXIF data raises whatever struct and Pillow raise
        value = 1
    return _BY_EXIF.get(value, Orientation()) if isinstance(value, int) else Orientation()


BT709, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020 = 1, 4, 5, 6, 7, 9
"""Matrix coefficients by their codes in ISO/IEC 23091-2."""


FFMPEG_MATRIX_NAMES = {
    BT709: "bt709",
    FCC: "fcc",
    BT470BG: "bt470bg",
    SMPTE170M: "smpte170m",
    SMPTE240M: "smpte240m",
    BT2020: "bt2020nc",
}
"""Names of the matrices in FFmpeg's filters."""

_HD_MIN_WIDTH, _SD_MAX_HEIGHT = 1280, 576


def color_matrix_of(frame: Any) -> int | None:
    """The code of a frame's colour matrix; None for RGB and grey, which have none.

    Where the video does not name it, what players assume: BT.709 from 1280 columns or 577 lines
    on, BT.601 below.
    """
    if frame.format.is_rgb or len(frame.format.components) < 3:
        return None
    named = int(frame.colorspace)
    if named in FFMPEG_MATRIX_NAMES:
        return named
    large = frame.width >= _HD_MIN_WIDTH or frame.height > _SD_MAX_HEIGHT
    return BT709 if large else SMPTE170M


_FULL_RANGE = 2
"""FFmpeg's code for full-range colours."""


@dataclass(frozen=True)
class DisplayFormat:
    """The properties of a decoded frame that decide how it is displayed."""

    width: int
    height: int
    pixel_aspect: Fraction
    """Width of a pixel over its height."""

    color_matrix: int | None
    """Code of the matrix (`color_matrix_of`)."""

    full_range: bool
    has_palette: bool


def display_format_of(stream: Any, frame: Any) -> DisplayFormat:
    """The display format of a frame that was decoded from a stream."""
    full_range = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
    return DisplayFormat(
        width=frame.width,
        height=frame.height,
        pixel_aspect=sanitize_pixel_aspect(stream.sample_aspect_ratio),
        color_matrix=color_matrix_of(frame),
        full_range=full_range,
        has_palette=bool(frame.format.has_palette),
    )


def sanitize_pixel_aspect(ratio: Fraction | None) -> Fraction:
    """The aspect ratio of a pixel; a missing or implausible one counts as square."""
    return ratio if ratio and Fraction(1, 4) <= ratio <= 4 else Fraction(1)


def square_pixel_size(width: int, height: int, pixel_aspect: Fraction | float) -> tuple[int, int]:
    """Width and height of a frame scaled to square pixels: one of its sides shrinks.

    Args:
        pixel_aspect: width of a stored pixel over its height.
    """
    if pixel_aspect >= 1:
        return width, max(1, round(height / pixel_aspect))
    return max(1, round(width * pixel_aspect)), height
