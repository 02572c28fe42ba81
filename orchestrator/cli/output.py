"""Figures, tables and JSON on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.job.schema_listing import SchemaLine

_COMMENT_COLUMN = 34


def console(*, stderr: bool = False) -> Console:
    """Rich's console. Long lines wrap on a terminal only, so that a pipe can be searched."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 400
    return Console(stderr=stderr, highlight=False, width=width, soft_wrap=width is not None)


def print_json(value: Any) -> None:
    """`value` as JSON on stdout, and nothing else."""
    from pydantic_core import to_json

    # `json` indents in Python, ten times as slow: a plan of a thousand sizes is a megabyte.
    print(to_json(value, indent=2, fallback=str, inf_nan_mode="constants").decode())


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> None:
    """A table; the last `numbers` columns are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if i >= len(head) - numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def print_schema(lines: Sequence[SchemaLine]) -> None:
    """A schema as an annotated file: keys to the left, what they mean beside them."""
    for line in lines:
        head = "  " * line.indent + line.key
        if not line.key.startswith("#"):
            head += f": {line.value}".rstrip()
        comment = f"{line.type}. {line.text}" if line.type else line.text
        _print_line(head, comment)


def _print_line(head: str, comment: str) -> None:
    """A key with its comment beside it, wrapped below itself on a narrow terminal."""
    import shutil
    import textwrap

    width = max(shutil.get_terminal_size((110, 24)).columns, 70) - _COMMENT_COLUMN - 2
    first, *rest = textwrap.wrap(comment, width, break_on_hyphens=False) or [""]
    if len(head) >= _COMMENT_COLUMN:
        print(head)
        head = ""
    print(f"{head:<{_COMMENT_COLUMN}}# {first}" if comment else head)
    for text in rest:
        print(f"{'':<{_COMMENT_COLUMN}}#   {text}")
