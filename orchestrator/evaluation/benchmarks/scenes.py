"""What a reader finds: scenes of possible and impossible videos, and what cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.errors import JobFailed, OrchestratorError, RequestError, suggest
from orchestrator.storage import Storage

Align = Literal["start", "end"]

MAX_NAMED = 5
"""Scenes that a message names before it counts the others."""


@dataclass(frozen=True)
class VideoRef:
    """One video: a coded file, or a folder's pictures."""

    path: str
    """Below the benchmark's folder."""

    image_files: tuple[str, ...] = ()
    """Names of the pictures in the folder `path`, in order. Empty: `path` is a video."""

    fps: float = 0.0
    """Frames a second of pictures; a video says it itself."""

    skip_frames: int = 0
    """Frames at the beginning that are not shown."""


@dataclass(frozen=True)
class BenchmarkScene:
    """Videos that differ in what is possible; what is resampled as a whole."""

    property: str
    name: str
    possible: tuple[VideoRef, ...]
    impossible: tuple[VideoRef, ...]
    """The i-th belongs to the i-th possible one, if `paired`."""

    paired: bool = True
    """If not: a pair is what shares its first frames."""


@dataclass(frozen=True)
class ExcludedItem:
    """A scene that cannot be used."""

    scene: str
    reason: str


@dataclass
class SceneListing:
    """A benchmark, read: what can be shown, and what cannot."""

    scored: list[BenchmarkScene]
    selection: list[BenchmarkScene]
    """Empty: a share of `scored` is to be taken."""

    excluded: list[ExcludedItem] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    """Scenes that are not in `scored` because they show videos that are chosen on."""

    align: Align = "start"
    """Which ends of a pair's videos belong together when one is longer."""


@contextmanager
def readable_folder(folder: str) -> Iterator[None]:
    """A storage that is not there, or cannot be listed or read, is said so.

    Raises:
        RequestError: it is not, or cannot.
    """
    try:
        if not Storage(folder).is_dir():
            raise RequestError(
                "no such folder", where=folder, hint="name the unpacked benchmark: benchmark.folder"
            )
        yield
    except OSError as error:
        raise RequestError(
            f"cannot be read: {error.strerror or error}",
            where=folder,
            hint="check the path and its rights",
        ) from None


def hash_fraction(name: str) -> float:
    """Where a name falls in [0, 1): by its hash, so that it is the same everywhere and for good."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def select_names_by_hash(names: Iterable[str], share: float) -> set[str]:
    """The `share` of some names (at least one) whose hashes are smallest."""
    ordered = sorted(names, key=hash_fraction)
    return set(ordered[: max(1, round(share * len(ordered)))])


def split_selection_and_scored(
    read: SceneListing, share: float, max_scored: int | None
) -> tuple[list[BenchmarkScene], list[BenchmarkScene]]:
    """(to choose on, to score), property by property; no scene is in both.

    Raises:
        RequestError: a property has too few scenes to spare any.
    """
    choosing, scoring = list(read.selection), []
    for name in sorted({scene.property for scene in read.scored}):
        mine = [scene for scene in read.scored if scene.property == name]
        if not read.selection:
            if len(mine) < 2:
                raise RequestError(
                    f"'{name}' has one scene: none is left to choose on",
                    where="benchmark",
                    hint="give more scenes, or leave it out by benchmark.properties",
                )
            kept = select_names_by_hash((scene.name for scene in mine), share)
            choosing += [scene for scene in mine if scene.name in kept]
            mine = [scene for scene in mine if scene.name not in kept]
        # The largest hashes come first: they are the last to be chosen on at another share.
        scoring += sorted(mine, key=lambda scene: -hash_fraction(scene.name))[:max_scored]
    return choosing, scoring


def requested_properties(asked: Sequence[str], available: Sequence[str]) -> list[str]:
    """What is judged of what is there.

    Raises:
        RequestError: something is asked for that is not there.
    """
    for name in asked:
        if name not in available:
            raise RequestError(
                f"no property '{name}' in this folder",
                where="benchmark.properties",
                hint=suggest(name, list(available)),
            )
    return list(asked or available)


_WRONG_FOLDER_HINT = "is it this benchmark's folder, and a model that fits it?"


@dataclass
class ExclusionTally:
    """What cannot be used so far; ends the job when it is too much."""

    limit: float
    """Share of the scenes that may be left out."""

    where: str
    """The benchmark's folder."""

    excluded: dict[str, ExcludedItem] = field(default_factory=dict)

    def add_listed(self, faults: Iterable[ExcludedItem], usable: int) -> None:
        """What was found by listing files, beside how many scenes.

        Raises:
            RequestError: too many cannot be used; with their names, number and reasons.
        """
        self._add(faults)
        self._refuse(usable + len(self.excluded), RequestError)

    def add(self, faults: Iterable[ExcludedItem], total: int) -> None:
        """What was found by looking, of `total` scenes that are shown or were left out before.

        Raises:
            JobFailed: too many cannot be used; with their names, number and reasons.
        """
        self._add(faults)
        self._refuse(total, JobFailed)

    def none_left_error(self, purpose: str) -> JobFailed:
        """The error when every scene that was meant for something cannot be used."""
        found = self.sorted_exclusions()
        why = f": {found[0].scene}: {found[0].reason}; {len(found)} are left out" if found else ""
        return JobFailed(
            f"no scene is left to {purpose}{why}", where=self.where, hint=_WRONG_FOLDER_HINT
        )

    def sorted_exclusions(self) -> list[ExcludedItem]:
        """All of them, by name."""
        return [self.excluded[name] for name in sorted(self.excluded)]

    def _add(self, faults: Iterable[ExcludedItem]) -> None:
        self.excluded |= {fault.scene: fault for fault in faults}

    def _refuse(self, total: int, kind: type[OrchestratorError]) -> None:
        found = self.sorted_exclusions()
        if len(found) <= self.limit * total:
            return
        rows = "\n  ".join(f"{fault.scene}: {fault.reason}" for fault in found[:MAX_NAMED])
        more = f"\n  and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
        enough = -(-len(found) * 100 // total) / 100
        mend = f"mend the folder, or leave them out, by name: benchmark.bad_limit={enough:g}"
        said = "cannot be used"
        if kind is JobFailed:  # it ends in the middle of looking: the others were not seen yet
            said, mend = f"{said}, of those looked at so far", f"{mend} or more"
        raise kind(
            f"{len(found)} of {total} scenes {said}:\n  {rows}{more}",
            where=self.where,
            hint=mend if enough < 1 else _WRONG_FOLDER_HINT,
        )
