"""Single inputs of a source: their identity, their key, and the clips in one video."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

from orchestrator.data.cut import cut_video
from orchestrator.data.pictures import read_picture
from orchestrator.data.sources import CHANGED, RawClip, Rejected, WorkUnit
from orchestrator.errors import DataError
from orchestrator.job import Encode
from orchestrator.storage import Storage

MISSING = "missing"
"""Identity of an input that is not there."""

_READ_AHEAD = 4 << 20


def make_units(inputs: Sequence[tuple[str, str]], size: int) -> list[WorkUnit]:
    """Deal (input, identity) pairs into units of `size`, in order."""
    units = []
    for first in range(0, len(inputs), size):
        part = inputs[first : first + size]
        names = tuple(name for name, _ in part)
        identity = "\n".join(state for _, state in part)
        digest = hashlib.sha256("\n".join([*names, identity]).encode()).hexdigest()
        units.append(WorkUnit(f"{first // size:06d}-{digest[:12]}", names, identity))
    return units


def identity_of(storage: Storage, path: str) -> str:
    """Size and modification time of a file, or `MISSING`."""
    import pyarrow.fs as pafs

    info = storage.fs.get_file_info(storage.at(path))
    if info.type != pafs.FileType.File:
        return MISSING
    return f"{info.size or 0}:{info.mtime_ns or 0}"


def key_of(path: str) -> str:
    """A readable key that is unique to a path: its stem and 8 hex digits of its hash."""
    stem = path.rpartition("/")[2].rpartition(".")[0] or path.rpartition("/")[2]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:64] or "video"
    return f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def clips_of_file(
    storage: Storage,
    path: str,
    identity: str,
    encode: Encode,
    extras: dict[str, bytes] | None = None,
    *,
    picture: bool = False,
) -> Iterator[RawClip | Rejected]:
    """The clips of one video file, or the one of a picture, or why it has none.

    The file must be, before and after it is read, what it was when it was listed.
    """
    source = storage.uri(path)
    if identity == MISSING:
        yield Rejected(source, "no such file")
        return
    if identity_of(storage, path) != identity:
        yield Rejected(source, CHANGED)
        return
    if identity.startswith("0:"):
        yield Rejected(source, "zero bytes")
        return
    try:
        with open_file(storage, path) as file:
            if picture:
                yield read_picture(file, key_of(path), source)
            else:
                yield from cut_video(file, key_of(path), source, encode, extras or {})
    except DataError as error:
        yield Rejected(source, error.what)
    except (FileNotFoundError, PermissionError) as error:
        yield Rejected(source, f"cannot be read: {error.strerror or error}")
    if identity_of(storage, path) != identity:
        yield Rejected(source, CHANGED)


def open_file(storage: Storage, path: str) -> IO[bytes]:
    """A seekable reader with read-ahead, so that a remote file costs few requests."""
    raw: Any = storage.fs.open_input_file(storage.at(path))
    return cast(IO[bytes], io.BufferedReader(raw, _READ_AHEAD))
