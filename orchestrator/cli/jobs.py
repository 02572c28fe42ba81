"""`orchestrator jobs`: job files and their schema."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Job files and their schema.", no_args_is_help=True, rich_markup_mode=None)

_COMMENT_COLUMN = 34


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
    from orchestrator.job.schema import job_schema, schema_lines

    if json:
        from orchestrator.cli.show import print_json

        print_json(job_schema(kind))
        return
    for line in schema_lines(kind):
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
