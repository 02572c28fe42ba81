"""A folder of videos, searched recursively, local or on an object store."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.data.inputs import clips_of_file, identity_of, make_units
from orchestrator.data.sources import (
    VIDEO_EXTENSIONS,
    RawClip,
    Rejected,
    WorkUnit,
    list_files,
)
from orchestrator.errors import RequestError
from orchestrator.job import Encode
from orchestrator.storage import Storage


class FolderSource:
    """Every video below a folder, by path; other files and hidden ones are left alone.

    `unit`: videos per work unit. `single`: the URI is one video instead of a folder.
    """

    def __init__(self, uri: str, unit: int, *, single: bool = False) -> None:
        self.uri, self.unit, self.single = uri, unit, single

    def units(self) -> list[WorkUnit]:
        """Units of `unit` videos each, sorted by path.

        Raises:
            RequestError: the folder cannot be read or holds no video.
        """
        if self.single:
            storage, name = self._place()
            return make_units([(name, identity_of(storage, name))], 1)
        found = [
            (entry.path, f"{entry.size}:{entry.mtime_ns}")
            for entry in list_files(Storage(self.uri))
            if entry.path.rpartition(".")[2].lower() in VIDEO_EXTENSIONS
        ]
        if not found:
            raise RequestError("no video in this folder", where=self.uri, mend="check the path")
        return make_units(found, self.unit)

    def clips(self, unit: WorkUnit, encode: Encode) -> Iterator[RawClip | Rejected]:
        """The clips of every video of a unit, in order."""
        storage, _ = self._place()
        for path, identity in zip(unit.inputs, unit.identity.split("\n"), strict=True):
            yield from clips_of_file(storage, path, identity, encode)

    def _place(self) -> tuple[Storage, str]:
        if not self.single:
            return Storage(self.uri), ""
        folder, _, name = self.uri.rpartition("/")
        return Storage(folder), name
