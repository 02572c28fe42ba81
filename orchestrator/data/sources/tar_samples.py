"""Which files of a tar belong to which clip, by WebDataset's rule for names.

A sample's key ends at the first dot of the base name: `KEY.left.mp4`, `KEY.right.mp4` and
`KEY.json` are one sample, and the label is both clips'. `KEY.left.json` is the left clip's alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class SidecarFile:
    """A member that is no clip: its name in the tar, and where its bytes are."""

    name: str
    offset: int
    size: int


def sample_key(name: str) -> str:
    """The key of the sample that a file belongs to."""
    folder, slash, base = name.rpartition("/")
    # A dot at the beginning hides a file, and ends no key.
    return folder + slash + base[:1] + base[1:].partition(".")[0]


class ClipsBySample:
    """The clips of a tar, by sample."""

    def __init__(self, keys: Collection[str]) -> None:
        """`keys`: of the clips, each a name up to its last dot."""
        self._clips = set(keys)
        self._samples: dict[str, list[str]] = {}
        for key in keys:
            self._samples.setdefault(sample_key(key), []).append(key)
        self._sample_by_casefold = {sample.casefold(): sample for sample in self._samples}

    def assign(self, files: Iterable[SidecarFile]) -> SidecarAssignment:
        """Give each file to its clips. A clip's own file goes before its sample's; of two files
        with one name the first is used."""
        found = SidecarAssignment()
        shared: list[SidecarFile] = []
        for file in files:
            key = self._owning_clip(file.name)
            if key is None:
                shared.append(file)
            elif not found.add(key, file.name[len(key) + 1 :], file):
                found.unused.append((file, f"clip '{key}' has a file of this kind already"))
        for file in shared:
            sample = sample_key(file.name)
            extension, keys = file.name[len(sample) + 1 :], self._samples.get(sample)
            if not keys or not extension:
                found.unused.append((file, self._unmatched_reason(sample)))
            elif not sum(found.add(key, extension, file) for key in keys):
                reason = f"each clip of '{sample}' has a file of this kind already"
                found.unused.append((file, reason))
        return found

    def _owning_clip(self, name: str) -> str | None:
        """The one clip that a file belongs to; None: to its whole sample, or to nothing."""
        sample, key = sample_key(name), name
        while len(key) > len(sample):
            key = key.rpartition(".")[0]
            if key in self._clips and key != sample:
                return key
        return None

    def _unmatched_reason(self, sample: str) -> str:
        similar = self._sample_by_casefold.get(sample.casefold(), sample)
        hint = "" if similar == sample else f": its name is '{similar}' in other letters"
        return f"belongs to no clip{hint}"


class SidecarAssignment:
    """`by_clip`: per clip, its side files by their extension in lower case (`KEY.JSON` is a
    "json"); `unused`: files that no clip has, and why."""

    def __init__(self) -> None:
        self.by_clip: dict[str, dict[str, SidecarFile]] = {}
        self.unused: list[tuple[SidecarFile, str]] = []

    def add(self, key: str, extension: str, file: SidecarFile) -> bool:
        """False when the clip has such a file already."""
        return self.by_clip.setdefault(key, {}).setdefault(extension.lower(), file) is file
