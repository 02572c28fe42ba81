"""WebDataset tars from elsewhere, indexed where they lie: read once, never written."""

from __future__ import annotations

import hashlib
import itertools
import re
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO, Any, cast

from orchestrator.data.arrays import ARRAYS, Found, unusable
from orchestrator.data.in_place import probe_in_place
from orchestrator.data.index_writer import ShardRows
from orchestrator.data.inputs import MISSING, identity_of, make_units, open_file
from orchestrator.data.sources import CHANGED, VIDEO_EXTENSIONS, Rejected, WorkUnit, list_files
from orchestrator.errors import DataError, RequestError
from orchestrator.storage import Storage

_UNITS = 4096
_IN_MEMORY = 64 << 20
_BLOCK = 1 << 20


class TarSource:
    """One tar, a folder of tars, or a pattern such as `s3://bucket/clips-{000..127}.tar`.

    A clip is a member with a video's extension; members that share its name up to a dot
    (`KEY.json`, `KEY.states.npy`) are its extras.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def units(self) -> list[WorkUnit]:
        """Units of one tar, or of a few where there are thousands.

        Raises:
            RequestError: a tar that the pattern names is missing.
        """
        found = [(tar, identity_of(*_place(tar))) for tar in self._tars()]
        missing = [tar for tar, state in found if state == MISSING]
        if missing:
            raise RequestError(
                f"{len(missing)} of {len(found)} tars are missing",
                where=missing[0],
                mend="check the pattern's numbers, or restore the files",
            )
        return make_units(found, 1 + len(found) // _UNITS)

    def shards(self, unit: WorkUnit) -> Iterator[ShardRows | Rejected]:
        """Each tar's clips, and a row for each member or rest of a tar that cannot be used."""
        for tar, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            place = _place(tar)
            if identity_of(*place) != identity:
                yield Rejected(tar, CHANGED)
                continue
            found = _Reader(tar)
            try:
                found.read(*place)
            except DataError as error:
                yield Rejected(tar, error.what)
            if identity_of(*place) != identity:
                yield Rejected(tar, CHANGED)
                continue
            shard = found.shard()
            yield from found.rejected()
            yield shard

    def _tars(self) -> list[str]:
        if "{" in self.uri:
            return expand(self.uri)
        if self.uri.lower().endswith(".tar"):
            return [self.uri]
        folder = Storage(self.uri)
        return [folder.uri(e.path) for e in list_files(folder) if e.path.lower().endswith(".tar")]


def expand(pattern: str) -> list[str]:
    """`a-{000..010}.tar` and `{x,y}.tar` as lists, like a shell.

    Raises:
        RequestError: braces that are neither a range nor a list.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(p, pattern) if i % 2 else [p] for i, p in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def _choices(text: str, pattern: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if numbers:
        first, last = numbers.groups()
        return [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    if "," in text:
        return text.split(",")
    raise RequestError(
        f"'{{{text}}}' is neither a range nor a list", where=pattern, mend="write {000..127}"
    )


def _place(tar: str) -> tuple[Storage, str]:
    folder, _, name = tar.rpartition("/")
    return Storage(folder or "/"), name


class _Reader:
    """What one tar holds, read from front to back once."""

    def __init__(self, tar: str) -> None:
        self._tar = tar
        self._clips: dict[str, dict[str, Any]] = {}
        self._others: list[tuple[str, int, int]] = []
        self._arrays: dict[int, Found] = {}  # by offset
        self._rejected: list[tuple[str, str]] = []
        self._hash, self._size = hashlib.sha256(), 0

    def read(self, storage: Storage, name: str) -> None:
        """Walk the tar.

        Raises:
            DataError: it is no tar at all.
        """
        with open_file(storage, name) as file:
            stream = cast(IO[bytes], _Hashing(file, self._hash))
            try:
                with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:
                    end = self._walk(tar)
            except tarfile.ReadError as error:
                raise DataError(f"not a tar: {error}") from None
            while stream.read(_BLOCK):
                pass
            self._size = file.seek(0, 2)
            if end is not None:
                file.seek(end)
                self._judge_end(file.read(tarfile.BLOCKSIZE), end)

    def _walk(self, tar: tarfile.TarFile) -> int | None:
        """Read every member; where the walk ended, or None when it was cut inside a member."""
        try:
            for member in tar:
                self._member(tar, member)
                tar.members = []  # type: ignore[attr-defined]  # keeps memory flat
        except tarfile.ReadError as error:
            if tar.offset == 0:
                raise
            self._rejected.append((self._tar, f"the tar is cut: {error}; the rest is lost"))
            return None
        return int(tar.offset)

    def _judge_end(self, block: bytes, at: int) -> None:
        if not block:
            self._rejected.append((self._tar, "the tar is cut: it has no end mark"))
        elif block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
            reason = f"the tar is cut or damaged at byte {at}; the rest is lost"
            self._rejected.append((self._tar, reason))

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if member.isdir():
            return
        name = member.name.removeprefix("./")
        stem, _, extension = name.rpartition(".")
        is_video = bool(stem) and extension.lower() in VIDEO_EXTENSIONS
        if name.startswith("/") or ".." in name.split("/"):
            self._reject(name, "unsafe name: absolute or with '..'")
        elif not member.isreg() or member.sparse is not None:
            self._reject(name, "not a plain file")
        elif not is_video:
            for array in ARRAYS:
                if name.endswith(f".{array}"):
                    body = cast(IO[bytes], tar.extractfile(member)).read()
                    self._arrays[member.offset_data] = Found.of(array, body)
            self._others.append((name, member.offset_data, member.size))
        elif stem in self._clips:
            self._reject(name, f"duplicate key '{stem}'")
        elif member.size == 0:
            self._reject(name, "zero bytes")
        else:
            self._clip(tar, member, name, stem)

    def _clip(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, key: str) -> None:
        digest = hashlib.sha256()
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as payload:
            body = cast(IO[bytes], tar.extractfile(member))
            while block := body.read(_BLOCK):
                digest.update(block)
                payload.write(block)
            try:
                facts = probe_in_place(cast(IO[bytes], payload))
            except DataError as error:
                self._reject(name, error.what)
                return
        width, height = facts.upright
        self._clips[key] = {
            "key": key,
            "shard": self._tar,
            "offset": member.offset_data,
            "bytes": member.size,
            "frames": facts.frames,
            "fps": float(facts.fps),
            "width": width,
            "height": height,
            "duration_s": facts.duration_s,
            "sha256": digest.hexdigest(),
            "source": f"{self._tar}/{name}",
            "codec": facts.codec,
            "extras": [],
        }

    def _reject(self, name: str, reason: str) -> None:
        self._rejected.append((f"{self._tar}/{name}", reason))

    def rejected(self) -> Iterator[Rejected]:
        """What cannot be used, each weighed as its share of the tar."""
        share = 1 / max(1, len(self._clips) + len(self._rejected))
        for source, reason in self._rejected:
            yield Rejected(source, reason, share)

    def shard(self) -> ShardRows:
        """The tar's clips in its order, each with what stands beside it; those whose actions
        cannot be used are rejected."""
        for name, offset, size in self._others:
            key = name
            while "." in key:
                key = key.rpartition(".")[0]
                if key in self._clips:
                    extra = {"name": name[len(key) + 1 :], "offset": offset, "bytes": size}
                    if extra["name"] in ARRAYS:
                        extra |= self._arrays[offset].indexed()
                    self._clips[key]["extras"].append(extra)
                    break
        self._judge_arrays()
        return ShardRows(self._tar, self._size, self._hash.hexdigest(), list(self._clips.values()))

    def _judge_arrays(self) -> None:
        for key, clip in list(self._clips.items()):
            places = {e["name"]: e["offset"] for e in reversed(clip["extras"])}
            beside = {name: self._arrays[places[name]] for name in ARRAYS if name in places}
            if fault := unusable(beside, clip["frames"]):
                self._reject(f"{key}.{fault[0]}", fault[1])
                del self._clips[key]


class _Hashing:
    """A reader that hashes everything that passes through it."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self._file, self._digest = file, digest

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data
