"""`orchestrator jobs`: job files and their schema."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Job files and their schema.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Job files and their schema."""


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="pack, train, embed, evaluate, study or tune.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON schema.")] = False,
) -> None:
    """Every key of a job kind: its default, type, unit and meaning.

    The listing reads like a job file; `...` stands where a value must be given.
    """
    from orchestrator.cli.show import print_json, print_schema
    from orchestrator.job.schema import job_schema, schema_lines

    if json:
        print_json(job_schema(kind))
        return
    print_schema(schema_lines(kind))
