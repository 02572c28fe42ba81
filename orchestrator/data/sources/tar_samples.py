"""Assigns the files of a tar to clips by WebDataset's naming rule.

A sample's key ends at the first dot of the base name: `KEY.left.mp4`, `KEY.right.mp4` and
`KEY.json` are one sample, whose json belongs to both clips. `KEY.left.json` belongs to the left
clip only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class SidecarFile:
    """A member that is not a clip: its name in the tar, and the offset and size of its bytes."""

    name: str
    offset: int
    size: int


def sample_key(name: str) -> str:
    """The key of the sample that a file belongs to."""
    folder, slash, base = name.rpartition("/")
    # A leading dot marks a hidden file and does not end the key.
    return folder + slash + base[:1] + base[1:].partition(".")[0]


class ClipsBySample:
    """The clips of a tar, grouped by sample."""

    def __init__(self, keys: Collection[str]) -> None:
        """Group the clips.

        Args:
            keys: one per clip: the member's name up to its last dot.
        """
        self._clips = set(keys)
        self._samples: dict[str, list[str]] = {}
        for key in keys:
            self._samples.setdefault(sample_key(key), []).append(key)
        self._sample_by_casefold = {sample.casefold(): sample for sample in self._samples}

    def assign(self, files: Iterable[SidecarFile]) -> SidecarAssignment:
        """Assign each file to its clips.

        A file of a clip takes precedence over one of its sample; of two files with the same name
        the first is used.
        """
        assignment = SidecarAssignment()
        shared: list[SidecarFile] = []
        for file in files:
            key = self._owning_clip(file.name)
            if key is None:
                shared.append(file)
            elif not assignment.add(key, file.name[len(key) + 1 :], file):
                assignment.unused.append((file, f"clip '{key}' has a file of this kind already"))
        for file in shared:
            sample = sample_key(file.name)
            extension, keys = file.name[len(sample) + 1 :], self._samples.get(sample)
            if not keys or not extension:
                assignment.unused.append((file, self._unmatched_reason(sample)))
            elif not sum(assignment.add(key, extension, file) for key in keys):
                reason = f"each clip of '{sample}' has a file of this kind already"
                assignment.unused.append((file, reason))
        return assignment

    def _owning_clip(self, name: str) -> str | None:
        """The one clip that a file belongs to; None if it belongs to a sample or to nothing."""
        sample, key = sample_key(name), name
        while len(key) > len(sample):
            key = key.rpartition(".")[0]
            if key in self._clips and key != sample:
                return key
        return None

    def _unmatched_reason(self, sample: str) -> str:
        similar = self._sample_by_casefold.get(sample.casefold(), sample)
        hint = "" if similar == sample else f": sample '{similar}' differs in upper and lower case"
        return f"belongs to no clip{hint}"


class SidecarAssignment:
    """The sidecar files of each clip."""

    def __init__(self) -> None:
        self.by_clip: dict[str, dict[str, SidecarFile]] = {}
        """Per clip its files by extension, in lower case (`KEY.JSON` is a "json")."""

        self.unused: list[tuple[SidecarFile, str]] = []
        """Files that belong to no clip, and why."""

    def add(self, key: str, extension: str, file: SidecarFile) -> bool:
        """Add a file to a clip; False if the clip has a file with this extension already."""
        return self.by_clip.setdefault(key, {}).setdefault(extension.lower(), file) is file
