"""Edit list and clean aperture of an mp4, which FFmpeg does not expose."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

_MAX_MOOV_BYTES = 1 << 28
_VISUAL_SAMPLE_ENTRY_BYTES = 78
"""Bytes of a video sample entry before its boxes."""

_EMPTY_EDIT_START = -1
"""Start time of an empty edit, which shows nothing."""


@dataclass(frozen=True)
class Mp4TrackInfo:
    """What an mp4 says of a track."""

    num_shown_edits: int = 1
    """Parts of the track that its edit list shows one after another."""

    clean_aperture: tuple[int, int] | None = None
    """Width and height to which frames are cropped; None: they are not cropped."""


def read_track_info(file: IO[bytes], track: int) -> Mp4TrackInfo:
    """The information of the track with this id; the default one if there is no such track."""
    moov = _read_moov(file)
    for name, offset, end in _boxes(moov, 0, len(moov)):
        if name == b"trak" and _track_number(moov, offset, end) == track:
            elst = _find_box(moov, offset, end, b"edts", b"elst")
            starts = [0] if elst is None else list(_edit_starts(moov, *elst))
            return Mp4TrackInfo(
                sum(start != _EMPTY_EDIT_START for start in starts),
                _clean_aperture(moov, offset, end),
            )
    return Mp4TrackInfo()


def set_edit_end(payload: bytes, seconds: float) -> bytes:
    """A copy of the mp4 whose first track ends at `seconds`, by its edit list.

    Raises:
        ValueError: it has no edit list.
    """
    body = bytearray(payload)
    mvhd = _find_box(body, 0, len(body), b"moov", b"mvhd")
    elst = _find_box(body, 0, len(body), b"moov", b"trak", b"edts", b"elst")
    if mvhd is None or elst is None:
        raise ValueError("an mp4 without an edit list")
    scale = int.from_bytes(body[mvhd[0] + (20 if body[mvhd[0]] else 12) :][:4], "big")
    offset = elst[0]
    version, count = body[offset], struct.unpack_from(">I", body, offset + 4)[0]
    size, number_format = (20, ">Q") if version else (12, ">I")
    struct.pack_into(number_format, body, offset + 8 + size * (count - 1), round(seconds * scale))
    return bytes(body)


def _read_moov(file: IO[bytes]) -> bytes:
    """The content of the box `moov`; empty if it is missing or damaged."""
    offset = 0
    while True:
        file.seek(offset)
        head = file.read(16)
        if len(head) < 8:
            return b""
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        start = 16 if size == 1 else 8
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if not all(32 <= letter < 127 or letter == 0xA9 for letter in name) or 0 < size < start:
            return b""
        if name == b"moov":
            file.seek(offset + start)
            return file.read(min(size - start, _MAX_MOOV_BYTES) if size else _MAX_MOOV_BYTES)
        if not size:  # the box extends to the end of the file
            return b""
        offset += size


def _boxes(body: bytes | bytearray, offset: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the content of each box between two offsets."""
    while offset + 8 <= end:
        size, name, start = (
            int.from_bytes(body[offset : offset + 4], "big"),
            bytes(body[offset + 4 : offset + 8]),
            8,
        )
        if size == 1:  # above 4 GiB: the size follows the name
            size, start = int.from_bytes(body[offset + 8 : offset + 16], "big"), 16
        if not start <= size <= end - offset:
            return
        yield name, offset + start, offset + size
        offset += size


def _find_box(
    body: bytes | bytearray, offset: int, end: int, *names: bytes
) -> tuple[int, int] | None:
    """Start and end of the content of the first box at a path of names."""
    for name, start, last in _boxes(body, offset, end):
        if name == names[0]:
            return (start, last) if len(names) == 1 else _find_box(body, start, last, *names[1:])
    return None


def _clean_aperture(body: bytes, offset: int, end: int) -> tuple[int, int] | None:
    """Width and height from the box `clap` of a track's first sample entry."""
    stsd = _find_box(body, offset, end, b"mdia", b"minf", b"stbl", b"stsd")
    if stsd is None:
        return None
    entry = next(_boxes(body, stsd[0] + 8, stsd[1]), None)
    clap = entry and _find_box(body, entry[1] + _VISUAL_SAMPLE_ENTRY_BYTES, entry[2], b"clap")
    if not clap or clap[1] - clap[0] < 16:
        return None
    width, width_divisor, height, height_divisor = struct.unpack_from(">4I", body, clap[0])
    if not width_divisor or not height_divisor:
        return None
    return width // width_divisor, height // height_divisor


def _track_number(body: bytes, offset: int, end: int) -> int | None:
    tkhd = _find_box(body, offset, end, b"tkhd")
    if tkhd is None:
        return None
    start = tkhd[0] + (20 if body[tkhd[0]] else 12)
    return int.from_bytes(body[start : start + 4], "big")


def _edit_starts(body: bytes, offset: int, end: int) -> Iterator[int]:
    """Start of each edit in the track, in the track's ticks."""
    is_64_bit = bool(body[offset : offset + 1] == b"\1")
    size, number_format, skip = (20, ">q", 8) if is_64_bit else (12, ">i", 4)
    for edit in range(int.from_bytes(body[offset + 4 : offset + 8], "big")):
        start = offset + 8 + size * edit + skip
        if start + size - skip > end:
            return
        yield struct.unpack_from(number_format, body, start)[0]
