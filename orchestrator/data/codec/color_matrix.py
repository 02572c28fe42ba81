"""The colour matrix of a decoded frame, also where the video does not name it."""

from __future__ import annotations

from typing import Any

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
"""As FFmpeg's filters call them."""

_HD_MIN_WIDTH, _SD_MAX_HEIGHT = 1280, 576


def color_matrix_of(frame: Any) -> int | None:
    """The code of a frame's colour matrix; where it is not named, what players assume: BT.709
    from 1280 columns or 577 lines on, BT.601 below. None: RGB and grey have no matrix."""
    if frame.format.is_rgb or len(frame.format.components) < 3:
        return None
    named = int(frame.colorspace)
    if named in FFMPEG_MATRIX_NAMES:
        return named
    large = frame.width >= _HD_MIN_WIDTH or frame.height > _SD_MAX_HEIGHT
    return BT709 if large else SMPTE170M
