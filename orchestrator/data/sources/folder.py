"""Source: a folder of videos or images, searched recursively, local or on an object store."""

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
from orchestrator.storage import Storage, split_file_uri

_IMAGES_PER_VIDEO = 64
"""Images in a work unit per video it would hold: images are small, and shards should not be."""


class FolderSource:
    """All videos below a folder, sorted by path; hidden files are ignored, other files reported.

    Args:
        uri: the folder, or the file.
        unit_size: videos per work unit.
        is_single_file: the URI is one file instead of a folder.
        images: read images instead of videos.
    """

    def __init__(
        self, uri: str, unit_size: int, *, is_single_file: bool = False, images: bool = False
    ) -> None:
        self.uri, self.unit_size = uri, unit_size
        self.is_single_file, self.images = is_single_file, images
        self._skipped_inputs: list[Rejected] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_skipped_inputs": []}

    def units(self) -> list[WorkUnit]:
        """Work units of `unit_size` videos, sorted by path.

        Raises:
            RequestError: the folder cannot be read or has no video in it.
        """
        extensions = IMAGE_EXTENSIONS if self.images else VIDEO_EXTENSIONS
        if self.is_single_file:
            storage, name = self._storage_and_name()
            return make_units([(name, file_identity(storage, name))], 1)
        storage = Storage(self.uri)
        listing = list_folder(storage)
        inputs = [
            (path_to_utf8(entry.path), f"{entry.size}:{entry.mtime_ns}")
            for entry in listing.with_extensions(extensions)
        ]
        if not inputs:
            raise RequestError("no video in this folder", where=self.uri, hint="check the path")
        kind = "pictures" if self.images else "videos"
        self._skipped_inputs = skipped_files(storage, listing, extensions, kind)
        return make_units(
            inputs, self.unit_size * _IMAGES_PER_VIDEO if self.images else self.unit_size
        )

    def left_out(self) -> list[Rejected]:
        """Files that the last call of `units` skipped."""
        return self._skipped_inputs

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """The clips of every file of a unit, in order."""
        storage, _ = self._storage_and_name()
        for name, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            path = path_from_utf8(name)
            yield from read_clips(storage, path, identity, encode, is_image=self.images)

    def _storage_and_name(self) -> tuple[Storage, str]:
        if not self.is_single_file:
            return Storage(self.uri), ""
        return split_file_uri(self.uri)
