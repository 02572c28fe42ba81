"""Writing clips into uniquely named tars of bounded size."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from typing import Any

from orchestrator.data.sources.base import RawClip
from orchestrator.data.store.index_writer import IndexedShard
from orchestrator.data.store.sidecar_arrays import ARRAY_FILES, ArraySummary
from orchestrator.storage import Storage

_END = b"\0" * (2 * tarfile.BLOCKSIZE)


class ShardWriter:
    """Tars `PREFIX-000.tar`, `PREFIX-001.tar`, ... of at most `limit` bytes.

    One clip may exceed the limit alone. The same clips give the same bytes: members carry
    no dates, and their order is that of `add`.
    """

    def __init__(self, storage: Storage, prefix: str, limit: int) -> None:
        self._storage, self._prefix, self._limit = storage, prefix, limit
        self._done: list[IndexedShard] = []
        self._open: _TarWriter | None = None
        storage.mkdir()

    def add(self, clip: RawClip) -> None:
        """Append one clip with what stands beside it."""
        members = {clip.extension: clip.payload, "json": _metadata_json(clip), **_sidecars(clip)}
        size = sum(_padded(len(body)) + tarfile.BLOCKSIZE for body in members.values())
        if self._open and self._open.size + size + len(_END) > self._limit:
            self._done.append(self._open.finish())
            self._open = None
        if self._open is None:
            self._open = _TarWriter(self._storage, f"{self._prefix}-{len(self._done):03d}.tar")
        offsets = {name: self._open.write(f"{clip.key}.{name}", b) for name, b in members.items()}
        row = _row(clip, self._open.name, offsets.pop(clip.extension))
        row["extras"] = [_extra(name, offset, members[name]) for name, offset in offsets.items()]
        self._open.clips.append(row)

    def finish(self) -> list[IndexedShard]:
        """Close the last tar; all are on disk when this returns."""
        if self._open:
            self._done.append(self._open.finish())
            self._open = None
        return self._done

    def discard(self) -> None:
        """Delete everything that was written."""
        if self._open:
            self._open.abort()
            self._storage.delete(self._open.name)
        for shard in self._done:
            self._storage.delete(shard.shard)
        self._open, self._done = None, []


class _TarWriter:
    """One tar that is being written, hashed as it goes."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self.name = storage, name
        self._stream: Any = storage.fs.open_output_stream(storage.fs_path(name))
        self._hash, self.size = hashlib.sha256(), 0
        self.clips: list[dict[str, Any]] = []

    def write(self, name: str, body: bytes) -> int:
        """Append a member; the offset of its first byte."""
        info = tarfile.TarInfo(name)
        info.size = len(body)
        self._put(info.tobuf(tarfile.PAX_FORMAT))
        offset = self.size
        self._put(body)
        self._put(b"\0" * (_padded(len(body)) - len(body)))
        return offset

    def finish(self) -> IndexedShard:
        self._put(_END)
        self._stream.close()
        if not self._storage.is_remote:
            descriptor = os.open(self._storage.fs_path(self.name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return IndexedShard(self.name, self.size, self._hash.hexdigest(), self.clips)

    def abort(self) -> None:
        """Let go of the file; on a full disk even closing may fail, and nothing is lost by it."""
        try:
            self._stream.close()
        except OSError:
            self._stream = None

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self.size += len(data)


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _sidecars(clip: RawClip) -> dict[str, bytes]:
    return {
        name: body
        for name, body in sorted(clip.extras.items())
        if name not in ("json", clip.extension)
    }


def _extra(name: str, offset: int, body: bytes) -> dict[str, Any]:
    known = ArraySummary.from_bytes(name, body).indexed() if name in ARRAY_FILES else {}
    return {"name": name, "offset": offset, "bytes": len(body), **known}


def _metadata_json(clip: RawClip) -> bytes:
    """KEY.json: what the index knows, and what the source adds."""
    facts = {
        "frames": clip.frames,
        "fps": clip.fps,
        "width": clip.width,
        "height": clip.height,
        "duration_s": clip.duration_s,
        "source": clip.source,
        **json.loads(clip.extras.get("json", b"{}")),
    }
    return json.dumps(facts, sort_keys=True).encode()


def _row(clip: RawClip, shard: str, offset: int) -> dict[str, Any]:
    return {
        "key": clip.key,
        "shard": shard,
        "offset": offset,
        "bytes": len(clip.payload),
        "frames": clip.frames,
        "fps": clip.fps,
        "width": clip.width,
        "height": clip.height,
        "duration_s": clip.duration_s,
        "sha256": hashlib.sha256(clip.payload).hexdigest(),
        "source": clip.source,
        "codec": clip.codec,
    }
