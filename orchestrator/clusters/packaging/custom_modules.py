"""A user's own modules that do not lie in the submitted folder: they travel too."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.clusters.packaging.file_kinds import classify_file

_IMPORT_PATH = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_][\w.]*(?:\?.*)?")
_PACKAGE = "orchestrator"


def find_custom_modules(job: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Files of modules that the cluster would not find, by path in the package.

    Those that the job names by import path, wherever they are installed; what they import from
    folders of PYTHONPATH; and this library itself where it is used from its sources.
    """
    tops = {top for path in _import_paths(job) for top in _custom_top_level(path)}
    tops |= set(_loaded_from(_python_path()))
    if not _is_installed(_PACKAGE):
        tops.add(_PACKAGE)
    files: dict[str, Path] = {}
    for top in sorted(tops):
        for place in _module_paths(top):
            if place not in (folder / top, folder / f"{top}.py"):
                files |= _module_files(place)
    return files


def _import_paths(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        match = _IMPORT_PATH.fullmatch(value)
        if match:
            yield match[1]
    elif isinstance(value, dict):
        for item in value.values():
            yield from _import_paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _import_paths(item)


def _custom_top_level(top: str) -> list[str]:
    """The top-level module itself, where there is one beside Python's own."""
    known = top in sys.stdlib_module_names or top == _PACKAGE
    return [] if known or not _module_paths(top) else [top]


def _loaded_from(folders: list[Path]) -> Iterator[str]:
    for top in {name.partition(".")[0] for name in sys.modules}:
        if top not in sys.stdlib_module_names and not top.startswith("__"):
            places = {place.parent for place in _module_paths(top)}
            if places and places <= set(folders):
                yield top


def _python_path() -> list[Path]:
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [Path(folder).absolute() for folder in named if folder]


def _is_installed(top: str) -> bool:
    """Whether a module lies where pip puts things, so that a cluster's image has it."""
    libraries = [Path(sysconfig.get_path(key)) for key in ("purelib", "platlib")]
    return any(place.is_relative_to(home) for place in _module_paths(top) for home in libraries)


def _module_paths(top: str) -> list[Path]:
    """The folders of a package, or the file of a module; none where it cannot be found."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place).absolute() for place in spec.submodule_search_locations]
    origin = Path(spec.origin or "")
    return [origin.absolute()] if origin.suffix == ".py" else []


def _module_files(place: Path) -> dict[str, Path]:
    if place.is_file():
        return {place.name: place}
    return {
        name: file
        for file in sorted(place.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
        for name in [file.relative_to(place.parent).as_posix()]
        if classify_file(name, file, tracked=False) == "code"
    }
