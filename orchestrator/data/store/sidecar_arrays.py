"""Arrays beside a video: `KEY.actions.npy` and `KEY.states.npy`, one row a frame.

Whoever wrote them, they are read here only, and nothing of them is ever unpickled.
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
"""Bytes; numpy writes some hundred."""

Floats = npt.NDArray[np.float32]

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_array(name: str, body: bytes | memoryview, frames: int) -> Floats:
    """The rows of a .npy file, float32 [frames, n]; more dimensions are laid into one row.

    Args:
        name: `ACTIONS_FILE` (which has two dimensions) or `STATES_FILE`.

    Raises:
        DataError: it cannot be used; one reason.
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
    """The array as the file has it, without a copy; its header is not believed."""
    try:
        start = _data_offset(body)
        if start > MAX_HEADER_BYTES:
            raise ValueError
        shape, fortran, dtype = _parse_header(bytes(body[:start]))
    except (ValueError, KeyError):
        raise DataError(f"{name} is no .npy file") from None
    if dtype.hasobject:
        raise DataError(f"{name} is pickled, which is never read")
    count, there = math.prod(shape), len(body) - start
    if count * dtype.itemsize != there:
        raise DataError(f"{name} is cut or damaged: {there} bytes for {list(shape)} of {dtype}")
    array = np.frombuffer(body, dtype, count, start)
    return array.reshape(shape, order="F" if fortran else "C")


def _data_offset(body: bytes | memoryview) -> int:
    """Where the numbers begin, by the length that the header has in its first bytes."""
    size = 2 if bytes(body[6:7]) == b"\x01" else 4
    return 8 + size + int.from_bytes(body[8 : 8 + size], "little")


@functools.lru_cache(maxsize=1024)  # reading one takes longer than reading the numbers
def _parse_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(head)
    return _HEADER_READERS[np.lib.format.read_magic(file)](file)


@dataclass(frozen=True)
class ArraySummary:
    """What packing and indexing learn of an array beside a video."""

    sha256: str
    num_rows: int
    width: int | None
    """Numbers of a row; None where it cannot be used."""

    unusable_reason: str | None
    """Why not, whatever the video's length."""

    @classmethod
    def from_bytes(cls, name: str, body: bytes) -> ArraySummary:
        digest = hashlib.sha256(body).hexdigest()
        try:
            rows = _parse_rows(name, body)
        except DataError as error:
            return cls(digest, 0, None, error.what)
        return cls(digest, len(rows), rows.shape[1], None)

    def indexed(self) -> dict[str, Any]:
        """What the index says of it beside its place."""
        return {"sha256": self.sha256, "width": self.width}


def find_unusable_array(arrays: Mapping[str, ArraySummary], frames: int) -> tuple[str, str] | None:
    """Of the actions beside a video, and the states beside them: which cannot be used, and why.

    None: all can, or there are no actions. States without any are some world's truth, of whatever
    shape: a job that asks for them judges them.
    """
    if ACTIONS_FILE not in arrays:
        return None
    for name in ARRAY_FILES:
        found = arrays.get(name)
        if found is not None and found.unusable_reason is not None:
            return name, found.unusable_reason
        if found is not None and found.num_rows != frames:
            return name, _length_mismatch(name, found.num_rows, frames)
    return None


def find_extra(row: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The entry of a file beside a clip, a row of the index; None: there is none."""
    found: list[dict[str, Any]] = [e for e in row.get("extras") or () if e["name"] == name]
    return found[0] if found else None


def combine_hashes(payload: str, arrays: Iterable[str]) -> str:
    """One hash of a clip's payload and of the arrays that are read with it, from their own."""
    return hashlib.sha256("\n".join([payload, *arrays]).encode()).hexdigest()


def expected_content_hash(
    row: Mapping[str, Any],
    arrays: Sequence[str],
    read_array_bytes: Callable[[dict[str, Any]], bytes],
) -> str:
    """What the index, a row of which this is, says of a clip that is read with such arrays.

    Args:
        read_array_bytes: gives an array by its entry, where an older index has no hash of it.
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
