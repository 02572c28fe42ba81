"""Reading a tar from front to back: hashed as it goes, and past its end mark."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any, cast

READ_CHUNK_BYTES = 1 << 20
"""Bytes that are read at a time."""

# What tarfile raises, beside its own errors, for a header whose numbers are none.
_HEADER_ERRORS = (ValueError, IndexError, OverflowError)


def open_tar(stream: HashingReader) -> tarfile.TarFile:
    """The tar that begins where a stream stands.

    Raises:
        tarfile.ReadError: there is none.
    """
    try:
        return tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=READ_CHUNK_BYTES)
    except _HEADER_ERRORS as error:
        raise tarfile.ReadError(f"damaged header: {error}") from None


def next_member(members: Iterator[tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The next member; None at the end.

    Raises:
        tarfile.ReadError: the tar is cut or damaged.
    """
    try:
        return next(members, None)
    except _HEADER_ERRORS as error:
        raise tarfile.ReadError(f"damaged header: {error}") from None


class HashingReader:
    """A reader that hashes each byte once, however often it is read; it never leaves a gap."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self._file, self._digest = file, digest
        self._offset = self._hashed = 0

    def seek(self, offset: int) -> None:
        """Go to a byte that was read before, or follows such a one."""
        self._file.seek(offset)
        self._offset = offset

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        new = self._offset + len(data) - self._hashed
        if new > 0:
            self._digest.update(data[-new:])
            self._hashed += new
        self._offset += len(data)
        return data

    def skip_zeros(self) -> int | None:
        """Where the next byte is that is not 0; None at the end of the file."""
        while block := self.read(READ_CHUNK_BYTES):
            if rest := block.lstrip(b"\0"):
                return self._offset - len(rest)
        return None

    def finish(self) -> int:
        """Read to the end; the file's size."""
        self.seek(self._hashed)
        while self.read(READ_CHUNK_BYTES):
            pass
        return self._offset
