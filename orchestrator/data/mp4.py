"""The edit list of an mp4 that FFmpeg has written."""

from __future__ import annotations

import struct

_CONTAINERS = (b"moov", b"trak", b"edts")


def set_edit_end(payload: bytes, seconds: float) -> bytes:
    """The same mp4, of whose first track nothing is shown from `seconds` on.

    Raises:
        ValueError: it has no edit list.
    """
    body = bytearray(payload)
    moov = _find(body, b"moov", 0, len(body))
    scale = _timescale(body, _find(body, b"mvhd", moov, _end(body, moov)))
    at = moov
    for name in (b"trak", b"edts", b"elst"):
        at = _find(body, name, at, _end(body, at))
    version, count = body[at + 8], struct.unpack_from(">I", body, at + 12)[0]
    size, form = (20, ">Q") if version else (12, ">I")
    last = at + 16 + size * (count - 1)
    struct.pack_into(form, body, last, round(seconds * scale))
    return bytes(body)


def _find(body: bytearray, name: bytes, parent: int, end: int) -> int:
    """Offset of a box within another one (a box that itself contains boxes), or in the file."""
    at = parent + 8 if body[parent + 4 : parent + 8] in _CONTAINERS else parent
    while at + 8 <= end:
        if body[at + 4 : at + 8] == name:
            return at
        at = _end(body, at)
    raise ValueError(f"no {name.decode()} box")


def _end(body: bytearray, at: int) -> int:
    size = int.from_bytes(body[at : at + 4], "big")
    if size == 1:  # of more than 4 GiB: the size stands behind the name
        size = int.from_bytes(body[at + 8 : at + 16], "big")
    return at + size if size >= 8 else len(body)


def _timescale(body: bytearray, mvhd: int) -> int:
    at = mvhd + (28 if body[mvhd + 8] else 20)
    return int.from_bytes(body[at : at + 4], "big")
