"""Sidecar arrays of a video, `KEY.actions.npy` and `KEY.states.npy`: one row per frame.

They come from untrusted sources, so this module parses them itself and never unpickles anything.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DataError

ACTIONS_FILE, STATES_FILE = "actions.npy", "states.npy"
ARRAY_FILES = (ACTIONS_FILE, STATES_FILE)

MAX_HEADER_BYTES = 1 << 16
"""Largest .npy header in bytes; numpy writes a few hundred."""

Floats = npt.NDArray[np.float32]

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_array(name: str, body: bytes | memoryview, frames: int) -> Floats:
    """Read a .npy file as float32 [frames, n]; further dimensions are flattened.

    Args:
        name: `ACTIONS_FILE`, which must have two dimensions, or `STATES_FILE`.
        body: bytes of the file.
        frames: number of frames of the video.

    Raises:
        DataError: it cannot be used.
    """
    rows = _parse_rows(name, body)
    if len(rows) != frames:
        raise DataError(_length_mismatch(name, len(rows), frames))
    return rows


def _parse_rows(name: str, body: bytes | memoryview) -> Floats:
    array = _parse_npy(name, body)
    if array.dtype.kind != "f":
        raise DataError(f"{name} holds {array.dtype}, not floats")
    if array.ndim < 2 or (name == ACTIONS_FILE and array.ndim > 2) or not array.size:
        raise DataError(f"{name} is {list(array.shape)}, not [frames, numbers]")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array, dtype=np.float32).reshape(len(array), -1)
    if not np.isfinite(rows).all():
        raise DataError(f"{name} holds NaN or infinity")
    return rows


def _length_mismatch(name: str, rows: int, frames: int) -> str:
    return f"{name} has {rows} rows, the video {frames} frames"


def _parse_npy(name: str, body: bytes | memoryview) -> npt.NDArray[Any]:
    """The array in a .npy file, without a copy; the header is checked against the size.

    Raises:
        DataError: it is not a .npy file, is pickled or truncated.
    """
    try:
        start = _data_offset(body)
        if start > MAX_HEADER_BYTES:
            raise ValueError
        shape, fortran, dtype = _parse_header(bytes(body[:start]))
    except (ValueError, KeyError):
        raise DataError(f"{name} is not a .npy file") from None
    if dtype.hasobject:
        raise DataError(f"{name} is pickled, which is never read")
    count, size = math.prod(shape), len(body) - start
    if count * dtype.itemsize != size:
        raise DataError(
            f"{name} is truncated or damaged: {size} bytes for {list(shape)} of {dtype}"
        )
    array = np.frombuffer(body, dtype, count, start)
    return array.reshape(shape, order="F" if fortran else "C")


def _data_offset(body: bytes | memoryview) -> int:
    """Offset of the numbers, from the length in the first bytes of the header."""
    size = 2 if bytes(body[6:7]) == b"\x01" else 4
    return 8 + size + int.from_bytes(body[8 : 8 + size], "little")


@functools.lru_cache(maxsize=1024)  # parsing a header takes longer than reading the numbers
def _parse_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(head)
    return _HEADER_READERS[np.lib.format.read_magic(file)](file)


@dataclass(frozen=True)
class ArraySummary:
    """The properties of a sidecar array that packing and indexing need."""

    sha256: str
    num_rows: int
    width: int | None
    """Numbers per row; None if the array cannot be used."""

    unusable_reason: str | None
    """Why it cannot be used, apart from its number of rows."""

    @classmethod
    def from_bytes(cls, name: str, body: bytes) -> ArraySummary:
        digest = hashlib.sha256(body).hexdigest()
        try:
            rows = _parse_rows(name, body)
        except DataError as error:
            return cls(digest, 0, None, error.what)
        return cls(digest, len(rows), rows.shape[1], None)

    def indexed(self) -> dict[str, Any]:
        """The fields of the array's index entry, without offset and size."""
        return {"sha256": self.sha256, "width": self.width}


def find_unusable_array(arrays: Mapping[str, ArraySummary], frames: int) -> tuple[str, str] | None:
    """Find an array that cannot be used: (name, reason), or None.

    A video without actions is not checked: its states may be an environment's ground truth of any
    shape, which the job that reads them checks.

    Args:
        arrays: summaries of the video's arrays by file name.
        frames: number of frames of the video.
    """
    if ACTIONS_FILE not in arrays:
        return None
    for name in ARRAY_FILES:
        summary = arrays.get(name)
        if summary is not None and summary.unusable_reason is not None:
            return name, summary.unusable_reason
        if summary is not None and summary.num_rows != frames:
            return name, _length_mismatch(name, summary.num_rows, frames)
    return None


def find_extra(row: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The entry of a sidecar file in a row of the index; None if the clip has no such file."""
    entries: list[dict[str, Any]] = [e for e in row.get("extras") or () if e["name"] == name]
    return entries[0] if entries else None


def combine_hashes(payload: str, arrays: Iterable[str]) -> str:
    """One hash of a clip's payload and of its arrays, from their sha256 hashes."""
    return hashlib.sha256("\n".join([payload, *arrays]).encode()).hexdigest()


def expected_content_hash(
    row: Mapping[str, Any],
    arrays: Sequence[str],
    read_array_bytes: Callable[[dict[str, Any]], bytes],
) -> str:
    """The content hash that a clip must have, by its row of the index.

    Args:
        row: row of the index.
        arrays: names of the arrays that are read with the clip.
        read_array_bytes: reads an array by its entry; older indexes have no hashes of arrays.
    """
    if not arrays:
        return str(row["sha256"])
    extras = [find_extra(row, name) for name in arrays]
    return combine_hashes(
        row["sha256"],
        [
            (e.get("sha256") or hashlib.sha256(read_array_bytes(e)).hexdigest()) if e else ""
            for e in extras
        ],
    )
