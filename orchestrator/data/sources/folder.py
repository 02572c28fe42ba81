"""A folder of videos or of pictures, searched recursively, local or on an object store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.data.sources.base import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    RawClip,
    Rejected,
    WorkUnit,
)
from orchestrator.data.sources.inputs import file_identity, make_units, path_from_utf8, path_to_utf8
from orchestrator.data.sources.listing import list_folder, skipped_files
from orchestrator.data.sources.raw_clips import read_clips
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig
from orchestrator.storage import Storage

_IMAGES_PER_VIDEO = 64
"""Pictures that count as a video in a work unit: they are small, and a shard should not be."""


class FolderSource:
    """Every video below a folder, by path; hidden files are left alone, others are named.

    `unit_size`: videos per work unit. `is_single_file`: the URI is one file instead of a folder.
    `images`: every picture of a folder instead of every video.
    """

    def __init__(
        self, uri: str, unit_size: int, *, is_single_file: bool = False, images: bool = False
    ) -> None:
        self.uri, self.unit_size, self.is_single_file, self.images = (
            uri,
            unit_size,
            is_single_file,
            images,
        )
        self._skipped_inputs: list[Rejected] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_skipped_inputs": []}

    def units(self) -> list[WorkUnit]:
        """Units of `unit` videos each, sorted by path.

        Raises:
            RequestError: the folder cannot be read or holds no video.
        """
        wanted = IMAGE_EXTENSIONS if self.images else VIDEO_EXTENSIONS
        if self.is_single_file:
            storage, name = self._storage_and_name()
            return make_units([(name, file_identity(storage, name))], 1)
        storage = Storage(self.uri)
        listing = list_folder(storage)
        found = [
            (path_to_utf8(entry.path), f"{entry.size}:{entry.mtime_ns}")
            for entry in listing.with_extensions(wanted)
        ]
        if not found:
            raise RequestError("no video in this folder", where=self.uri, hint="check the path")
        kind = "pictures" if self.images else "videos"
        self._skipped_inputs = skipped_files(storage, listing, wanted, kind)
        return make_units(
            found, self.unit_size * _IMAGES_PER_VIDEO if self.images else self.unit_size
        )

    def left_out(self) -> list[Rejected]:
        """What the last `units` found beside its inputs."""
        return self._skipped_inputs

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """The clips of every video of a unit, in order."""
        storage, _ = self._storage_and_name()
        for name, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            path = path_from_utf8(name)
            yield from read_clips(storage, path, identity, encode, is_image=self.images)

    def _storage_and_name(self) -> tuple[Storage, str]:
        if not self.is_single_file:
            return Storage(self.uri), ""
        folder, _, name = self.uri.rpartition("/")
        return Storage(folder or "/"), name
