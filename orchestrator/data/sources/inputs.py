"""Single inputs of a source: their identity, their key, and the clips in one video."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from orchestrator.data.sources.base import WorkUnit
from orchestrator.errors import DataError
from orchestrator.storage import Storage

MISSING = "missing"
"""Identity of an input that is not there."""

UNREADABLE_PREFIX = "unusable: "
"""Begins the identity of an input that cannot be looked at; the reason follows."""

_READ_AHEAD_BYTES = 4 << 20
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_COMPRESSION_MAGIC = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"(\xb5/\xfd": "zstd",
    b"\x04\"M\x18": "lz4", b"PK\x03\x04": "zip",
}  # fmt: skip
_NON_UTF8_PREFIX = "\0"  # begins the text of a name that is not UTF-8; no path holds it

# Errors of one file; others are the storage's or the machine's, and stop the job.
_PER_FILE_ERRNOS = frozenset((
    errno.EACCES, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOTDIR, errno.ENXIO, errno.EPERM,
))  # fmt: skip


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


def path_to_utf8(path: str) -> str:
    """A path as UTF-8 text, one to one: most are it already, local ones may hold any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _NON_UTF8_PREFIX + quote_from_bytes(os.fsencode(path))
    return path


def path_from_utf8(text: str) -> str:
    """The path that `path_to_utf8` was given."""
    if not text.startswith(_NON_UTF8_PREFIX):
        return text
    return os.fsdecode(unquote_to_bytes(text.removeprefix(_NON_UTF8_PREFIX)))


def printable_path(path: str) -> str:
    """A path for people and for the index: what is not UTF-8 is written as `\\xe9`."""
    shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return shown.replace("\0", "\\x00")


def file_identity(storage: Storage, path: str) -> str:
    """Size and modification time of a file, `MISSING`, or `UNREADABLE_PREFIX` and why."""
    import pyarrow.fs as pafs

    if "\0" in path:
        return f"{UNREADABLE_PREFIX}a NUL byte in its name"
    if not storage.is_remote:
        try:
            found = os.stat(storage.fs_path(path))
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except OSError as error:
            return f"{UNREADABLE_PREFIX}{error.strerror}"
        plain = stat.S_ISREG(found.st_mode)
        return f"{found.st_size}:{found.st_mtime_ns}" if plain else MISSING
    info = storage.fs.get_file_info(storage.fs_path(path))
    if info.type != pafs.FileType.File:
        return MISSING
    return f"{info.size or 0}:{info.mtime_ns or 0}"


@contextmanager
def convert_input_errors(storage: Storage | None = None) -> Iterator[None]:
    """Whatever goes wrong with one input, as the reason why it cannot be used.

    `storage`: where it is read. Without one, every OSError is the machine's.

    Raises:
        DataError: the reason.
        OSError: the storage or the machine fails, not the input.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except FileNotFoundError as error:
        if storage is None:
            raise
        raise DataError("no such file") from error
    except OSError as error:
        final = isinstance(error, PermissionError)
        local = storage is not None and not storage.is_remote and error.errno in _PER_FILE_ERRNOS
        if storage is None or not (final or local):
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(f"cannot be read: {reason}") from None
    except Exception as error:
        reason = (str(error).splitlines() or ["no reason"])[0]
        raise DataError(f"cannot be read: {type(error).__name__}: {reason}") from error


def check_not_lfs_pointer(file: IO[bytes]) -> None:
    """Find out that a file is what Git LFS left in place of a large one.

    Raises:
        DataError: it is.
    """
    file.seek(0)
    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
        raise DataError("a Git LFS pointer, not the file itself: run 'git lfs pull'")
    file.seek(0)


def detect_compression(head: bytes) -> str | None:
    """How a file is compressed, by its first bytes."""
    return next(
        (kind for magic, kind in _COMPRESSION_MAGIC.items() if head.startswith(magic)), None
    )


def open_buffered(storage: Storage, path: str) -> IO[bytes]:
    """A seekable reader with read-ahead, so that a remote file costs few requests."""
    return cast(IO[bytes], io.BufferedReader(open_arrow_file(storage, path), _READ_AHEAD_BYTES))


def open_arrow_file(storage: Storage, path: str) -> Any:
    """A file as pyarrow reads it: its threads call no Python, as they would for `open_buffered`."""
    place = storage.fs_path(path)
    return storage.fs.open_input_file(place if storage.is_remote else os.fsencode(place))
