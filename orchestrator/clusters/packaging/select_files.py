"""Which files of a folder travel to a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.clusters.packaging.file_kinds import classify_file
from orchestrator.clusters.packaging.git_checkout import GitCheckout, read_checkout
from orchestrator.errors import RequestError

_MAX_FILES = 20_000
"""A folder with more is somebody's home or a data set, not a project."""

_SHOWN = 5


@dataclass
class SelectedFiles:
    """The files of a folder that go along, and what a person should know of the others."""

    files: dict[str, Path] = field(default_factory=dict)
    """By path in the package."""

    checkout: GitCheckout | None = None
    untracked: list[str] = field(default_factory=list)
    """Files that go along though git does not track them."""

    secrets: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Files that are left out, by reason."""

    @property
    def changed(self) -> list[str]:
        """Tracked files that go along and differ from the commit; those deleted too."""
        left_out = {*self.secrets, *self.data, *self.others}
        changed = self.checkout.changed if self.checkout else ()
        return [name for name in changed if name not in left_out]

    def notes(self) -> list[str]:
        """One line for each thing that a person should know."""
        lines = []
        if self.changed:
            lines.append(f"goes along, not committed: {_first_names(self.changed)}")
        if self.untracked:
            lines.append(f"goes along, not tracked by git: {_first_names(self.untracked)}")
        for reason, names in (
            ("it looks secret", self.secrets),
            ("data", self.data),
            ("no source and not tracked by git" if self.checkout else "no source", self.others),
        ):
            if names:
                lines.append(f"left out, {reason}: {_first_names(names)}")
        return lines


def select_files(folder: Path, storage: Path | None) -> SelectedFiles:
    """The code of a folder: what git tracks and source that it does not ignore, or the source
    files of a plain folder. Never secrets, data, or what lies in `storage`.

    Raises:
        RequestError: there is no code, there are far too many files, or git fails.
    """
    checkout = read_checkout(folder)
    chosen = SelectedFiles(checkout=checkout)
    if checkout is not None:
        _add_files(chosen, folder, storage, checkout.tracked, tracked=True)
        _add_files(chosen, folder, storage, checkout.untracked, tracked=False)
    else:
        _add_files(chosen, folder, storage, _walk(folder), tracked=False)
    return chosen


def _add_files(
    chosen: SelectedFiles,
    folder: Path,
    storage: Path | None,
    names: Iterable[str],
    *,
    tracked: bool,
) -> None:
    for name in names:
        file = folder / name
        if storage is not None and file.is_relative_to(storage):
            if tracked:
                chosen.data.append(name)
            continue
        kind = classify_file(name, file, tracked=tracked)
        if kind == "code" and not file.exists():
            continue  # deleted and not committed, or a link to nothing
        if kind == "code" and not _is_own(name, file, folder):
            kind = "other"
        if kind == "code":
            chosen.files[name] = file
            if chosen.checkout is not None and not tracked:
                chosen.untracked.append(name)
        else:
            {"secret": chosen.secrets, "data": chosen.data, "other": chosen.others}[kind].append(
                name
            )


def _is_own(name: str, file: Path, folder: Path) -> bool:
    """A file with a name that a zip can hold, whose content lies in the folder."""
    printable = name.isprintable() and "\\" not in name
    return printable and file.is_file() and file.resolve().is_relative_to(folder.resolve())


def _walk(folder: Path) -> Iterator[str]:
    """Files of a plain folder, without hidden ones, caches and environments."""
    seen = 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in ("__pycache__", "node_modules")
            and not name.endswith(".egg-info")
            and not (Path(root) / name / "pyvenv.cfg").exists()
        )
        seen += len(files)
        if seen > _MAX_FILES:
            raise RequestError(
                f"more than {_MAX_FILES:,} files, and no git checkout: no folder of a project",
                where=str(folder),
                hint="submit from the folder of your code",
            )
        for name in sorted(files):
            path = (Path(root) / name).relative_to(folder).as_posix()
            if not name.endswith((".pyc", ".pyo")):
                yield path


def _first_names(names: list[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(repr(name) if not name.isprintable() else name for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
