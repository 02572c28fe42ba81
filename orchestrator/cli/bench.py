"""`orchestrator bench`: measured speed, beside something to compare it with."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Measure speed beside something to compare it with.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
