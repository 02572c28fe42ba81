"""Layers of the package (contracts in pyproject.toml), and what a first import may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "orchestrator"
HEAVY = {"torch", "ray", "mlflow", "deepspeed", "pyarrow", "numpy", "av", "rich", "pydantic"}
LIGHT = ("errors", "progress", "randomness", "storage", "job", "estimate", "cli")
ALLOWED = {"job": {"pydantic"}, "estimate": {"pydantic"}}


def modules_loaded_on_import(path: Path) -> Iterator[str]:
    """Top-level names that a file imports outside functions and TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in late:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_imports_go_down_the_layers() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(
        [*command, "--no-cache"], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stdout


def test_command_line_and_jobs_import_heavy_libraries_late() -> None:
    found = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if (package := path.relative_to(PACKAGE).parts[0].removesuffix(".py")) in LIGHT
        for module in modules_loaded_on_import(path)
        if module in HEAVY - ALLOWED.get(package, set())
    ]
    assert found == []


@pytest.mark.parametrize("code", ["import orchestrator", "import orchestrator.cli.app"])
def test_a_first_import_loads_nothing_heavy(code: str) -> None:
    script = f"{code}; import sys; print(sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
