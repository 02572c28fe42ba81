"""A folder of videos or of pictures, searched recursively, local or on an object store."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.data.inputs import clips_of_file, identity_of, make_units
from orchestrator.data.sources import (
    PICTURE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    RawClip,
    Rejected,
    WorkUnit,
    list_files,
)
from orchestrator.errors import RequestError
from orchestrator.job import Encode
from orchestrator.storage import Storage

_PICTURES = 64
"""Pictures that count as a video in a work unit: they are small, and a shard should not be."""


class FolderSource:
    """Every video below a folder, by path; other files and hidden ones are left alone.

    `unit`: videos per work unit. `single`: the URI is one file instead of a folder. `pictures`:
    every picture of a folder instead of every video.
    """

    def __init__(
        self, uri: str, unit: int, *, single: bool = False, pictures: bool = False
    ) -> None:
        self.uri, self.unit, self.single, self.pictures = uri, unit, single, pictures

    def units(self) -> list[WorkUnit]:
        """Units of `unit` videos each, sorted by path.

        Raises:
            RequestError: the folder cannot be read or holds no video.
        """
        wanted = PICTURE_EXTENSIONS if self.pictures else VIDEO_EXTENSIONS
        if self.single:
            storage, name = self._place()
            return make_units([(name, identity_of(storage, name))], 1)
        found = [
            (entry.path, f"{entry.size}:{entry.mtime_ns}")
            for entry in list_files(Storage(self.uri))
            if entry.path.rpartition(".")[2].lower() in wanted
        ]
        if not found:
            raise RequestError("no video in this folder", where=self.uri, mend="check the path")
        return make_units(found, self.unit * _PICTURES if self.pictures else self.unit)

    def clips(self, unit: WorkUnit, encode: Encode) -> Iterator[RawClip | Rejected]:
        """The clips of every video of a unit, in order."""
        storage, _ = self._place()
        for path, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            yield from clips_of_file(storage, path, identity, encode, picture=self.pictures)

    def _place(self) -> tuple[Storage, str]:
        if not self.single:
            return Storage(self.uri), ""
        folder, _, name = self.uri.rpartition("/")
        return Storage(folder), name
