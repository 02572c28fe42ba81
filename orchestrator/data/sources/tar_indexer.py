"""Indexes one tar in a single pass: its clips, sidecar files, hashes and unusable members."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO, Any, cast

from orchestrator.data.codec.seekable import probe_seekable
from orchestrator.data.sources.base import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    Rejected,
)
from orchestrator.data.sources.inputs import (
    check_not_lfs_pointer,
    convert_input_errors,
    detect_compression,
    open_buffered,
    printable_path,
)
from orchestrator.data.sources.listing import (
    extension_of,
    is_document,
    is_hidden,
)
from orchestrator.data.sources.tar_samples import ClipsBySample, SidecarFile, sample_key
from orchestrator.data.store.index_writer import IndexedShard
from orchestrator.data.store.sidecar_arrays import ARRAY_FILES, ArraySummary, find_unusable_array
from orchestrator.errors import DataError
from orchestrator.storage import Storage

READ_CHUNK_BYTES = 1 << 20
"""Bytes per read."""


# What tarfile raises, besides its own errors, for a header with fields that are not numbers.
_HEADER_ERRORS = (ValueError, IndexError, OverflowError)


def open_tar(stream: HashingReader) -> tarfile.TarFile:
    """Open the tar that begins at the position of a stream.

    Raises:
        tarfile.ReadError: no tar begins there.
    """
    try:
        return tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=READ_CHUNK_BYTES)
    except _HEADER_ERRORS as error:
        raise tarfile.ReadError(f"damaged header: {error}") from None


def next_member(members: Iterator[tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The next member; None at the end.

    Raises:
        tarfile.ReadError: the tar is truncated or damaged.
    """
    try:
        return next(members, None)
    except _HEADER_ERRORS as error:
        raise tarfile.ReadError(f"damaged header: {error}") from None


class HashingReader:
    """A file reader that hashes every byte exactly once, in order, however often it is read."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self._file, self._digest = file, digest
        self._offset = self._hashed = 0

    def seek(self, offset: int) -> None:
        """Go to an offset up to which all bytes have been read."""
        self._file.seek(offset)
        self._offset = offset

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        num_new = self._offset + len(data) - self._hashed
        if num_new > 0:
            self._digest.update(data[-num_new:])
            self._hashed += num_new
        self._offset += len(data)
        return data

    def skip_zeros(self) -> int | None:
        """Offset of the next byte that is not 0; None at the end of the file."""
        while block := self.read(READ_CHUNK_BYTES):
            if rest := block.lstrip(b"\0"):
                return self._offset - len(rest)
        return None

    def finish(self) -> int:
        """Read to the end of the file and return its size in bytes."""
        self.seek(self._hashed)
        while self.read(READ_CHUNK_BYTES):
            pass
        return self._offset


_NON_FILE_TYPES = (b"D", b"V")  # GNU: what a folder held, and the volume's name


_MAX_IN_MEMORY_BYTES = 64 << 20


class TarIndexer:
    """Collects the clips, sidecar files and unusable members of one tar, in one pass."""

    def __init__(self, tar: str) -> None:
        self._tar = tar
        self._clips: dict[str, dict[str, Any]] = {}
        self._files: list[SidecarFile] = []
        self._files_by_name: dict[str, SidecarFile] = {}  # for hard links
        self._arrays_by_offset: dict[int, ArraySummary] = {}
        self._lost_inputs: list[tuple[str, str]] = []
        self._skipped_files: list[tuple[str, str]] = []
        self._bad_samples: set[str] = set()
        self._hash, self._size = hashlib.sha256(), 0

    def read(self, storage: Storage, name: str) -> None:
        """Read the tar, and others that are concatenated to it.

        Raises:
            DataError: the file is not a tar.
        """
        with open_buffered(storage, name) as file:
            check_not_lfs_pointer(file)
            stream = HashingReader(file, self._hash)
            start: int | None = 0
            while start is not None:
                start = self._scan_tar(stream, start)
            self._size = stream.finish()

    def _scan_tar(self, stream: HashingReader, start: int) -> int | None:
        """Read the tar that begins at `start`; the offset of the next one, or None.

        Raises:
            DataError: the file does not begin with a tar.
        """
        stream.seek(start)
        try:
            tar = open_tar(stream)
        except tarfile.ReadError as error:
            if not start:
                stream.seek(0)
                kind = detect_compression(stream.read(16))
                reason = f"{kind} data: unpack it" if kind else str(error)
                raise DataError(f"not a tar: {reason}") from None
            reason = f"the data after the end-of-archive mark, from byte {start} on, is not a tar"
            self._skipped_files.append((self._tar, reason))
            return None
        with tar:
            end = self._scan_members(tar, start)
        if end is None:
            return None
        stream.seek(end)
        block = stream.read(tarfile.BLOCKSIZE)
        if not block:
            self._lost_inputs.append(
                (self._tar, "the tar is truncated: it has no end-of-archive mark")
            )
        elif block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
            reason = f"the tar is truncated or damaged at byte {end}; the rest is lost"
            self._lost_inputs.append((self._tar, reason))
        else:
            return stream.skip_zeros()
        return None

    def _scan_members(self, tar: tarfile.TarFile, start: int) -> int | None:
        """Read all members; the offset after the last, or None if the tar ends inside a member."""
        members = iter(tar)
        try:
            while member := next_member(members):
                self._add_member(tar, member, start + member.offset_data)
                tar.members = []  # type: ignore[attr-defined]  # bounds the memory
        except tarfile.ReadError as error:
            self._lost_inputs.append(
                (self._tar, f"the tar is truncated: {error}; the rest is lost")
            )
            return None
        return start + int(tar.offset)

    def _add_member(self, tar: tarfile.TarFile, member: tarfile.TarInfo, offset: int) -> None:
        if member.isdir() or member.type in _NON_FILE_TYPES:
            return
        name = printable_path(member.name.removeprefix("./"))
        key, _, _ = name.rpartition(".")
        is_video = bool(key) and extension_of(name) in VIDEO_EXTENSIONS
        array = next((one for one in ARRAY_FILES if name.lower().endswith(f".{one}")), None)
        if name.startswith("/") or ".." in name.split("/"):
            self._reject(name, "unsafe name: absolute or with '..'", is_video)
        elif member.islnk() and not is_video and (target := self._resolve_hard_link(member, array)):
            self._files.append(SidecarFile(name, target.offset, target.size))
        elif member.sparse is not None:
            self._reject(name, "is stored sparse: make the tar without --sparse", is_video)
        elif not member.isreg():
            self._reject(name, "not a plain file", is_video)
        elif not is_video:
            if array:
                body = cast(IO[bytes], tar.extractfile(member)).read()
                self._arrays_by_offset[offset] = ArraySummary.from_bytes(array, body)
            self._files_by_name[name] = SidecarFile(name, offset, member.size)
            self._files.append(self._files_by_name[name])
        elif name.rpartition("/")[2].startswith("._"):
            self._reject(name, "macOS metadata, not a video", counts_as_lost=False)
        elif key in self._clips:
            self._reject(name, f"duplicate key '{key}'")
        elif member.size == 0:
            self._reject(name, "zero bytes")
        else:
            self._add_clip(tar, member, name, key, offset)

    def _resolve_hard_link(self, member: tarfile.TarInfo, array: str | None) -> SidecarFile | None:
        """The earlier sidecar file that a hard link names; None if it names no such file."""
        target = self._files_by_name.get(printable_path(member.linkname.removeprefix("./")))
        return (
            target
            if target and (array is None or target.offset in self._arrays_by_offset)
            else None
        )

    def _add_clip(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, key: str, offset: int
    ) -> None:
        digest = hashlib.sha256()
        with tempfile.SpooledTemporaryFile(max_size=_MAX_IN_MEMORY_BYTES) as payload:
            body = cast(IO[bytes], tar.extractfile(member))
            while block := body.read(READ_CHUNK_BYTES):
                digest.update(block)
                payload.write(block)
            try:
                with convert_input_errors():
                    check_not_lfs_pointer(cast(IO[bytes], payload))
                    info = probe_seekable(cast(IO[bytes], payload))
            except DataError as error:
                self._reject(name, error.what)
                return
        width, height = info.display_size
        self._clips[key] = {
            "key": key,
            "shard": self._tar,
            "offset": offset,
            "bytes": member.size,
            "frames": info.frames,
            "fps": float(info.fps),
            "width": width,
            "height": height,
            "duration_s": info.duration_s,
            "sha256": digest.hexdigest(),
            "source": f"{self._tar}/{name}",
            "codec": info.codec,
            "extras": [],
        }

    def _reject(self, name: str, reason: str, counts_as_lost: bool = True) -> None:
        (self._lost_inputs if counts_as_lost else self._skipped_files).append(
            (f"{self._tar}/{name}", reason)
        )
        if counts_as_lost:
            self._bad_samples.add(sample_key(name))

    def rejected(self) -> Iterator[Rejected]:
        """Members that cannot be used, with their share of the tar; skipped files with share 0."""
        share = 1 / max(1, len(self._clips) + len(self._lost_inputs))
        for source, reason in self._lost_inputs:
            yield Rejected(source, reason, share)
        for source, reason in self._skipped_files:
            yield Rejected(source, reason, 0.0)
        if not self._clips and not self._lost_inputs:
            yield Rejected(self._tar, "holds no video", 0.0)

    def shard(self) -> IndexedShard:
        """The tar's clips in its order, each with its sidecar files.

        Clips whose actions or states cannot be used are rejected.
        """
        assignment = ClipsBySample(self._clips).assign(self._files)
        for key, sidecars in assignment.by_clip.items():
            for extension, file in sorted(sidecars.items(), key=lambda item: item[1].offset):
                extra = {"name": extension, "offset": file.offset, "bytes": file.size}
                if extension in ARRAY_FILES:
                    extra |= self._arrays_by_offset[file.offset].indexed()
                self._clips[key]["extras"].append(extra)
        for file, reason in assignment.unused:
            self._skip_file(file.name, reason)
        self._reject_unusable_arrays()
        return IndexedShard(
            self._tar, self._size, self._hash.hexdigest(), list(self._clips.values())
        )

    def _skip_file(self, name: str, reason: str) -> None:
        """Report a file that belongs to no clip, unless its sample is reported already."""
        if is_document(name) or is_hidden(name) or sample_key(name) in self._bad_samples:
            return
        if extension_of(name) in IMAGE_EXTENSIONS:
            reason = "a picture in a tar, of which only videos are read"
        self._reject(name, reason, counts_as_lost=False)

    def _reject_unusable_arrays(self) -> None:
        for key, clip in list(self._clips.items()):
            offsets = {e["name"]: e["offset"] for e in reversed(clip["extras"])}
            arrays = {
                name: self._arrays_by_offset[offsets[name]]
                for name in ARRAY_FILES
                if name in offsets
            }
            if unusable := find_unusable_array(arrays, clip["frames"]):
                self._reject(f"{key}.{unusable[0]}", unusable[1])
                del self._clips[key]
