"""Single input files of a source: identity, names that are not UTF-8, opening, read errors."""

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
"""Identity of an input that does not exist."""

UNREADABLE_PREFIX = "unusable: "
"""Begins the identity of an input that cannot be read; the reason follows."""

_READ_AHEAD_BYTES = 4 << 20
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_COMPRESSION_MAGIC = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"(\xb5/\xfd": "zstd",
    b"\x04\"M\x18": "lz4", b"PK\x03\x04": "zip",
}  # fmt: skip
_NON_UTF8_PREFIX = "\0"  # begins the text of a name that is not UTF-8; no path contains it

# Errors of a single file. Others are errors of the storage or the machine and stop the job.
_PER_FILE_ERRNOS = frozenset((
    errno.EACCES, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOTDIR, errno.ENXIO, errno.EPERM,
))  # fmt: skip


def make_units(inputs: Sequence[tuple[str, str]], size: int) -> list[WorkUnit]:
    """Group (input, identity) pairs into units of `size` inputs, in order."""
    units = []
    for first in range(0, len(inputs), size):
        part = inputs[first : first + size]
        names = tuple(name for name, _ in part)
        identity = "\n".join(state for _, state in part)
        digest = hashlib.sha256("\n".join([*names, identity]).encode()).hexdigest()
        units.append(WorkUnit(f"{first // size:06d}-{digest[:12]}", names, identity))
    return units


def path_to_utf8(path: str) -> str:
    """A path as UTF-8 text, reversibly: local paths may contain any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _NON_UTF8_PREFIX + quote_from_bytes(os.fsencode(path))
    return path


def path_from_utf8(text: str) -> str:
    """The path that `path_to_utf8` converted."""
    if not text.startswith(_NON_UTF8_PREFIX):
        return text
    return os.fsdecode(unquote_to_bytes(text.removeprefix(_NON_UTF8_PREFIX)))


def printable_path(path: str) -> str:
    """A path for messages and for the index: bytes that are not UTF-8 are written as `\\xe9`."""
    text = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return text.replace("\0", "\\x00")


def file_identity(storage: Storage, path: str) -> str:
    """Size and modification time of a file, `MISSING`, or `UNREADABLE_PREFIX` and the reason."""
    import pyarrow.fs as pafs

    if "\0" in path:
        return f"{UNREADABLE_PREFIX}a NUL byte in its name"
    if not storage.is_remote:
        try:
            info = os.stat(storage.fs_path(path))
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except OSError as error:
            return f"{UNREADABLE_PREFIX}{error.strerror}"
        is_file = stat.S_ISREG(info.st_mode)
        return f"{info.st_size}:{info.st_mtime_ns}" if is_file else MISSING
    info = storage.fs.get_file_info(storage.fs_path(path))
    if info.type != pafs.FileType.File:
        return MISSING
    return f"{info.size or 0}:{info.mtime_ns or 0}"


@contextmanager
def convert_input_errors(storage: Storage | None = None) -> Iterator[None]:
    """Convert any error of one input to a DataError with the reason.

    Args:
        storage: where the input is read; None: every OSError is an error of the machine.

    Raises:
        DataError: the input cannot be used.
        OSError: the storage or the machine failed, not the input.
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
        is_permission = isinstance(error, PermissionError)
        is_local_file_error = (
            storage is not None and not storage.is_remote and error.errno in _PER_FILE_ERRNOS
        )
        if storage is None or not (is_permission or is_local_file_error):
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(f"cannot be read: {reason}") from None
    except Exception as error:
        reason = (str(error).splitlines() or ["no reason"])[0]
        raise DataError(f"cannot be read: {type(error).__name__}: {reason}") from error


def check_not_lfs_pointer(file: IO[bytes]) -> None:
    """Check that a file is not a Git LFS pointer, which stands in for a file not downloaded.

    Raises:
        DataError: it is one.
    """
    file.seek(0)
    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
        raise DataError("a Git LFS pointer, not the file itself: run 'git lfs pull'")
    file.seek(0)


def detect_compression(head: bytes) -> str | None:
    """The compression format of a file, from its first bytes; None if it is not compressed."""
    return next(
        (kind for magic, kind in _COMPRESSION_MAGIC.items() if head.startswith(magic)), None
    )


def open_buffered(storage: Storage, path: str) -> IO[bytes]:
    """Open a file with read-ahead, so that a remote file takes few requests."""
    return cast(IO[bytes], io.BufferedReader(open_arrow_file(storage, path), _READ_AHEAD_BYTES))


def open_arrow_file(storage: Storage, path: str) -> Any:
    """Open a file for pyarrow, whose threads read it without calling Python."""
    full_path = storage.fs_path(path)
    return storage.fs.open_input_file(full_path if storage.is_remote else os.fsencode(full_path))
