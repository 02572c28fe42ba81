"""Import the modules of earlier versions under their old paths.

A user's plug-in, a job file (`kind: orchestrator.bench.ball:Ball`) or a command in a rendered
manifest may name a module by the path that it had in an earlier version. The path then gives a
module that passes every name on to where it is now, with one DeprecationWarning.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from orchestrator.renamed_modules_table import MODULES, NAMES

PACKAGE = "orchestrator."
NEW_PATHS = {PACKAGE + old: PACKAGE + new for old, new in MODULES.items()}
NEW_NAMES = {
    PACKAGE + module: dict(pair.split("=") for pair in pairs.split())
    for module, pairs in NAMES.items()
}


def install() -> None:
    """Make old module paths importable."""
    if not any(isinstance(finder, RenamedModuleFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RenamedModuleFinder())


class RenamedModuleFinder:
    """Finds modules by paths that they no longer have."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Describe how to import an old path; None for any other module."""
        new = NEW_PATHS.get(fullname)
        if new is None and fullname not in NEW_NAMES:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is None and new is not None:
            spec = None  # a folder without modules, which an earlier version left
        if spec is None and new is not None:
            is_package = any(old.startswith(f"{fullname}.") for old in NEW_PATHS)
            # A subclass of importlib.abc.Loader would double the time of `import orchestrator`.
            loader: Any = _AliasLoader(new)
            return ModuleSpec(fullname, loader, is_package=is_package)
        # The path still exists, but as a package, or with other names in it.
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _OldNamesLoader(spec.loader.name, spec.loader.path)
        return spec


class _AliasLoader:
    """Loads an old path as an empty module that looks its names up in the new module."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        importlib.import_module(self.new)
        _warn_renamed(module.__name__, self.new)
        _pass_on_old_names(module)

    def get_code(self, fullname: str) -> CodeType | None:
        """Code of the new module, for `python -m OLD`."""
        parent, _, _ = self.new.rpartition(".")
        spec = PathFinder.find_spec(self.new, importlib.import_module(parent).__path__)
        assert spec is not None
        assert isinstance(spec.loader, SourceFileLoader)
        _warn_renamed(fullname, self.new)
        return spec.loader.get_code(self.new)


class _OldNamesLoader(SourceFileLoader):
    """Loads a module as usual, and has it pass on the names that it no longer has."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _pass_on_old_names(module, warn=True)


def _pass_on_old_names(module: ModuleType, *, warn: bool = False) -> None:
    """Give a module a `__getattr__` that finds what its old names mean now.

    Args:
        module: a module under an old path.
        warn: whether each name warns (else the import of the module did).
    """
    old = module.__name__
    new = NEW_PATHS.get(old, old)
    own_lookup = vars(module).get("__getattr__")

    def lookup(name: str) -> Any:
        if f"{old}.{name}" in NEW_PATHS and new != f"{old}.{name}":
            return importlib.import_module(f"{old}.{name}")
        new_name = NEW_NAMES.get(old, {}).get(name)
        if own_lookup is not None and new_name is None:
            return own_lookup(name)
        if name.startswith("__") or (new == old and new_name is None):
            raise AttributeError(f"module '{old}' has no attribute '{name}'")
        where, _, attribute = (new_name or name).rpartition(":")
        where = PACKAGE + where if where else new
        found = getattr(importlib.import_module(where), attribute)
        if warn:
            _warn_renamed(f"{old}.{name}", f"{where}.{attribute}")
        return found

    module.__getattr__ = lookup  # type: ignore[method-assign]


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)
