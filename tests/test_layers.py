"""The house's floors: a room imports from below or beside, and a glance costs nothing."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "orchestrator"

LAYERS = {
    "errors": 1, "paths": 1, "version": 1, "storage": 1, "progress": 1, "randomness": 1,
    "ray_local": 1, "ray_session": 1, "summary": 1, "unexpected": 1,
    "renamed_modules": 1, "renamed_modules_table": 1,
    "job": 2, "cluster_profile": 2, "estimate": 2,
    "data": 3, "physics": 3, "jepa": 3, "tracking": 3,
    "environments": 3, "planning": 3, "report": 3, "units": 3,
    "training": 4, "features": 4, "evaluation": 4,
    "tuning": 5, "study": 5, "pipeline": 5, "clusters": 5, "runner": 5, "bench": 5,
    "cli": 6, "__main__": 6,
}  # fmt: skip
HEAVY = ("torch", "ray", "mlflow", "deepspeed", "pyarrow", "numpy", "av", "rich", "pydantic")
PLAIN_TORCH = ("ray", "deepspeed", "mlflow")


@functools.cache
def imported_modules(path: Path) -> list[tuple[str, bool]]:
    """(module, at import time) of every import statement of a file, TYPE_CHECKING left out."""
    return list(_imported(path))


def _imported(path: Path) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) not in lazy
            # `from orchestrator import plan` names a room in its second half.
            if node.module == "orchestrator":
                yield from ((f"orchestrator.{a.name}", id(node) not in lazy) for a in node.names)


def package_of_module(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "orchestrator" and len(parts) > 1 else ""


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def package_of_file(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_floor() -> None:
    assert {package_of_file(path) for path in files()} - LAYERS.keys() == set()


def test_no_room_imports_upward() -> None:
    upward = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files()
        for module, _ in imported_modules(path)
        if LAYERS.get(package_of_module(module), 0) > LAYERS[package_of_file(path)]
    ]
    assert upward == []


def test_the_models_are_plain_torch() -> None:
    found = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files()
        if package_of_file(path) == "jepa"
        for module, _ in imported_modules(path)
        if module.split(".")[0] in PLAIN_TORCH
    ]
    assert found == []


def test_command_line_and_jobs_import_heavy_libraries_late() -> None:
    allowed = {"job": ("pydantic",), "estimate": ("pydantic",)}
    found = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files()
        if package_of_file(path)
        in ("errors", "progress", "randomness", "storage", "job", "estimate", "cli")
        for module, at_import in imported_modules(path)
        if at_import
        and module.split(".")[0] in HEAVY
        and module.split(".")[0] not in allowed.get(package_of_file(path), ())
    ]
    assert found == []


@pytest.mark.parametrize("code", ["import orchestrator", "import orchestrator.cli.app"])
def test_a_glance_loads_nothing_heavy(code: str) -> None:
    script = f"{code}; import sys; print(sorted({set(HEAVY)!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
