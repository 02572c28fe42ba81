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


def format_bytes(count: float) -> str:
    """Bytes as a person reads them: `3.4 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.3g} {unit}"


def format_number(value: float) -> str:
    """A count or rate in three digits: `12.3 M`, `1.85e+14` as `185 T`."""
    for factor, unit in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{unit}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.4g}"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: `3 min 12 s`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
