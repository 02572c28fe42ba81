"""The edit list of an mp4: which parts of a track are shown."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

_MAX_MOOV_BYTES = 1 << 28
_VISUAL_SAMPLE_ENTRY_BYTES = 78
"""Bytes of a sample entry of video before the boxes in it."""

_EMPTY_EDIT_START = -1
"""Start of an edit that shows nothing."""


@dataclass(frozen=True)
class Mp4TrackInfo:
    """What an mp4 says of a track. `num_shown_edits`: how many parts of it are shown one after
    another, by its edit list. `clean_aperture`: width and height to which the frames are cropped;
    None: they are not."""

    num_shown_edits: int = 1
    clean_aperture: tuple[int, int] | None = None


def read_track_info(file: IO[bytes], track: int) -> Mp4TrackInfo:
    """The table of the track that the file gives this number; the default one without it."""
    moov = _read_moov(file)
    for name, at, end in _boxes(moov, 0, len(moov)):
        if name == b"trak" and _track_number(moov, at, end) == track:
            elst = _find_box(moov, at, end, b"edts", b"elst")
            starts = [0] if elst is None else list(_edit_starts(moov, *elst))
            return Mp4TrackInfo(
                sum(start != _EMPTY_EDIT_START for start in starts), _clean_aperture(moov, at, end)
            )
    return Mp4TrackInfo()


def set_edit_end(payload: bytes, seconds: float) -> bytes:
    """The same mp4, of whose first track nothing is shown from `seconds` on.

    Raises:
        ValueError: it has no edit list.
    """
    body = bytearray(payload)
    mvhd = _find_box(body, 0, len(body), b"moov", b"mvhd")
    elst = _find_box(body, 0, len(body), b"moov", b"trak", b"edts", b"elst")
    if mvhd is None or elst is None:
        raise ValueError("an mp4 without an edit list")
    scale = int.from_bytes(body[mvhd[0] + (20 if body[mvhd[0]] else 12) :][:4], "big")
    at = elst[0]
    version, count = body[at], struct.unpack_from(">I", body, at + 4)[0]
    size, form = (20, ">Q") if version else (12, ">I")
    struct.pack_into(form, body, at + 8 + size * (count - 1), round(seconds * scale))
    return bytes(body)


def _read_moov(file: IO[bytes]) -> bytes:
    """What the box `moov` holds; nothing where there is none, or a damaged one."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return b""
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        first = 16 if size == 1 else 8
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if not all(32 <= letter < 127 or letter == 0xA9 for letter in name) or 0 < size < first:
            return b""
        if name == b"moov":
            file.seek(at + first)
            return file.read(min(size - first, _MAX_MOOV_BYTES) if size else _MAX_MOOV_BYTES)
        if not size:  # it goes on to the end of the file
            return b""
        at += size


def _boxes(body: bytes | bytearray, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, end) of what each box between two places holds."""
    while at + 8 <= end:
        size, name, first = (
            int.from_bytes(body[at : at + 4], "big"),
            bytes(body[at + 4 : at + 8]),
            8,
        )
        if size == 1:  # of more than 4 GiB: the size stands behind the name
            size, first = int.from_bytes(body[at + 8 : at + 16], "big"), 16
        if not first <= size <= end - at:
            return
        yield name, at + first, at + size
        at += size


def _find_box(body: bytes | bytearray, at: int, end: int, *names: bytes) -> tuple[int, int] | None:
    """Where the first box of a path of names begins and ends."""
    for name, first, last in _boxes(body, at, end):
        if name == names[0]:
            return (first, last) if len(names) == 1 else _find_box(body, first, last, *names[1:])
    return None


def _clean_aperture(body: bytes, at: int, end: int) -> tuple[int, int] | None:
    """Width and height of the box `clap` of a track's first kind of sample."""
    stsd = _find_box(body, at, end, b"mdia", b"minf", b"stbl", b"stsd")
    if stsd is None:
        return None
    entry = next(_boxes(body, stsd[0] + 8, stsd[1]), None)
    clap = entry and _find_box(body, entry[1] + _VISUAL_SAMPLE_ENTRY_BYTES, entry[2], b"clap")
    if not clap or clap[1] - clap[0] < 16:
        return None
    width, below, height, under = struct.unpack_from(">4I", body, clap[0])
    return (width // below, height // under) if below and under else None


def _track_number(body: bytes, at: int, end: int) -> int | None:
    tkhd = _find_box(body, at, end, b"tkhd")
    if tkhd is None:
        return None
    place = tkhd[0] + (20 if body[tkhd[0]] else 12)
    return int.from_bytes(body[place : place + 4], "big")


def _edit_starts(body: bytes, at: int, end: int) -> Iterator[int]:
    """Where in the track each edit begins, in the track's own ticks."""
    long = bool(body[at : at + 1] == b"\1")
    size, form, skip = (20, ">q", 8) if long else (12, ">i", 4)
    for edit in range(int.from_bytes(body[at + 4 : at + 8], "big")):
        place = at + 8 + size * edit + skip
        if place + size - skip > end:
            return
        yield struct.unpack_from(form, body, place)[0]
