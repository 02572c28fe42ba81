"""Slices of tensors in safetensors files: written by their owner, read by any layout.

A file holds flat float32 runs under keys `KIND/NAME`. Its metadata says where each run begins in
the whole tensor and what the whole tensor's shape is, so that a reader of any world size and
ZeRO stage asks for elements and gets them, and reads no byte that it does not need.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import DataError
from orchestrator.storage import Storage, fsync_path

FLOAT32_BYTES = 4
"""Bytes of a float32."""

# Neighbouring runs are read in one request up to this size.
MAX_READ_BYTES = 64 * 2**20


MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""


@dataclass(frozen=True)
class TensorSlice:
    """Elements `offset` .. `offset + len(data)` of the flattened tensor `kind`/`name`."""

    kind: str
    name: str
    shape: tuple[int, ...]
    offset: int
    data: Tensor
    """float32 [n], on the CPU."""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class StoredSlice:
    """A run as it lies in a file."""

    path: str
    byte_offset: int
    offset: int
    numel: int


def write_slices(storage: Storage, path: str, slices: list[TensorSlice]) -> dict[str, Any]:
    """Write one file and flush it to the disk; gives its size and sha256.

    The file is written as a stream, so that no second copy of the tensors is made. It is not
    atomic: what commits it is the checkpoint's COMPLETE.
    """
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "pt",
            "slices": json.dumps({s.key: [s.offset, *s.shape] for s in slices}),
        }
    }
    at = 0
    for piece in slices:
        end = at + piece.data.numel() * FLOAT32_BYTES
        header[piece.key] = {
            "dtype": "F32",
            "shape": [piece.data.numel()],
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    storage.mkdir(path.rpartition("/")[0])
    with storage.fs.open_output_stream(storage.fs_path(path)) as stream:
        start = struct.pack("<Q", len(text)) + text
        for part in (memoryview(start), *(_bytes(piece.data) for piece in slices)):
            digest.update(part)
            stream.write(part)
    if not storage.is_remote:
        fsync_path(storage.fs_path(path))
    return {"bytes": 8 + len(text) + at, "sha256": digest.hexdigest()}


def _bytes(data: Tensor) -> memoryview:
    array: Any = data.contiguous().numpy()
    return memoryview(array).cast("B") if data.numel() else memoryview(b"")


class SliceReader:
    """What a set of slice files holds together. `shapes` gives the tensors by (kind, name)."""

    def __init__(self, storage: Storage, paths: list[str]) -> None:
        self.storage = storage
        self.shapes: dict[tuple[str, str], tuple[int, ...]] = {}
        self._stored: dict[tuple[str, str], list[StoredSlice]] = {}
        for path in paths:
            self._read_header(path)

    def _read_header(self, path: str) -> None:
        try:
            (length,) = struct.unpack("<Q", self.storage.read_range(path, 0, 8))
            if length > MAX_HEADER_BYTES:
                raise ValueError("this is no safetensors file")
            header = json.loads(self.storage.read_range(path, 8, length))
            places = json.loads(header.pop("__metadata__")["slices"])
        except (OSError, KeyError, TypeError, ValueError, struct.error) as error:
            raise _damage_error(
                self.storage.uri(path), f"its header cannot be read: {error}"
            ) from error
        for key, entry in header.items():
            kind, _, name = key.partition("/")
            offset, *shape = places[key]
            begin, end = entry["data_offsets"]
            self.shapes[kind, name] = tuple(shape)
            self._stored.setdefault((kind, name), []).append(
                StoredSlice(path, 8 + length + begin, offset, (end - begin) // FLOAT32_BYTES)
            )

    def read(self, wanted: Iterable[TensorSlice]) -> None:
        """Fill `data` of every wanted slice.

        Raises:
            DataError: the files do not hold all of its elements, or hold another shape.
        """
        runs: list[tuple[str, int, Tensor]] = []
        for piece in wanted:
            runs += self._overlapping_reads(piece)
        runs.sort(key=lambda run: run[:2])
        with ExitStack() as stack:
            files: dict[str, Any] = {}
            for path, byte, targets in _coalesce(runs):
                if path not in files:
                    opened = self.storage.fs.open_input_file(self.storage.fs_path(path))
                    files[path] = stack.enter_context(opened)
                numel = sum(target.numel() for target in targets)
                data = files[path].read_at(numel * FLOAT32_BYTES, byte)
                if len(data) != numel * FLOAT32_BYTES:
                    raise _damage_error(self.storage.uri(path), "it ends too early")
                values = torch.frombuffer(bytearray(data), dtype=torch.float32)
                sizes = [target.numel() for target in targets]
                for target, part in zip(targets, torch.split(values, sizes), strict=True):
                    target.copy_(part)

    def read_tensor(self, kind: str, name: str) -> Tensor:
        """One whole tensor."""
        shape = self.shapes[kind, name]
        data = torch.empty(torch.Size(shape).numel(), dtype=torch.float32)
        self.read([TensorSlice(kind, name, shape, 0, data)])
        return data.view(shape)

    def _overlapping_reads(self, piece: TensorSlice) -> list[tuple[str, int, Tensor]]:
        """The runs in files that overlap `piece`, each with the part of its data to fill."""
        where = f"{self.storage.root}: {piece.key}"
        known = self.shapes.get((piece.kind, piece.name))
        if known != piece.shape:
            held = "does not hold this tensor" if known is None else f"holds {list(known)}"
            raise DataError(
                f"the checkpoint {held}, the model has {list(piece.shape)}",
                where=where,
                hint="resume with the job that wrote it, or start another run with --fresh",
            )
        runs, covered = [], 0
        last = piece.offset + piece.data.numel()
        for stored in self._stored[piece.kind, piece.name]:
            begin, end = max(stored.offset, piece.offset), min(stored.offset + stored.numel, last)
            if begin < end:
                byte = stored.byte_offset + (begin - stored.offset) * FLOAT32_BYTES
                part = piece.data[begin - piece.offset : end - piece.offset]
                runs.append((stored.path, byte, part))
                covered += end - begin
        if covered != piece.data.numel():
            raise _damage_error(where, f"{covered} of {piece.data.numel()} elements are stored")
        return runs


def _coalesce(runs: list[tuple[str, int, Tensor]]) -> Iterable[tuple[str, int, list[Tensor]]]:
    """Sorted runs, neighbours joined into one request."""
    group: list[Tensor] = []
    path, first, size = "", 0, 0
    for run_path, byte, target in runs:
        follows = run_path == path and byte == first + size
        if group and not (follows and size < MAX_READ_BYTES):
            yield path, first, group
            group = []
        if not group:
            path, first, size = run_path, byte, 0
        group.append(target)
        size += target.numel() * FLOAT32_BYTES
    if group:
        yield path, first, group


def _damage_error(where: str, what: str) -> DataError:
    return DataError(
        f"the checkpoint is damaged: {what}",
        where=where,
        hint="delete its folder: the run then continues from the one before it",
    )
