"""`orchestrator jobs`: jobs that were sent to clusters, and the schema of job files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.submit import CLUSTER, show_links, status_line

if TYPE_CHECKING:
    from orchestrator.clusters.backend import SubmissionStatus

app = typer.Typer(
    help="Jobs on clusters, and the schema of job files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NAME = typer.Argument(metavar="NAME", help="The job's name.")
JSON = typer.Option("--json", help="As JSON.")


@app.callback()
def group() -> None:
    """Jobs on clusters, and the schema of job files."""


@app.command("list")
def list_jobs(
    to: Annotated[str | None, CLUSTER] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """What was sent to a cluster, or to every cluster that has a profile here; newest first."""
    from orchestrator.cli.output import print_json, print_table
    from orchestrator.text import format_duration

    rows = _rows(to)
    if json:
        print_json([row.to_dict() for row in rows])
        return
    table = []
    for row in rows:
        took = (
            row.ended_at and row.submitted_at and format_duration(row.ended_at - row.submitted_at)
        )
        code = "" if row.exit_code is None else str(row.exit_code)
        table.append([row.name, row.cluster, row.state, _clock(row.submitted_at), took or "", code])
    print_table(["name", "cluster", "state", "sent", "took", "exit code"], table)


@app.command()
def status(
    name: Annotated[str, NAME],
    to: Annotated[str, CLUSTER],
    json: Annotated[bool, JSON] = False,
) -> None:
    """Where a job stands: its state, times, exit code and pages."""
    from orchestrator.cli.output import print_json
    from orchestrator.cluster_profile import load_profile
    from orchestrator.clusters.submit import backend_for, with_links

    profile = load_profile(to)
    row = with_links(backend_for(profile).status(name), profile)
    if json:
        print_json(row.to_dict())
        return
    print(status_line(row))
    for title, text in (
        ("sent", _clock(row.submitted_at)),
        ("began", _clock(row.began_at)),
        ("ended", _clock(row.ended_at)),
        ("says", row.message),
    ):
        if text:
            print(f"  {title:<12}{text}")
    show_links(row)


@app.command()
def logs(
    name: Annotated[str, NAME],
    to: Annotated[str, CLUSTER],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="On, to its end.")] = False,
) -> None:
    """What a job has printed."""
    from orchestrator.cluster_profile import load_profile
    from orchestrator.clusters.submit import backend_for

    for piece in backend_for(load_profile(to)).logs(name, follow=follow):
        print(piece, end="", flush=True)


@app.command()
def stop(
    name: Annotated[str, NAME],
    to: Annotated[str, CLUSTER],
    json: Annotated[bool, JSON] = False,
) -> None:
    """Have a job save after its present step and end; waits for it.

    The same submit continues it.
    """
    from orchestrator.cli.output import print_json
    from orchestrator.cluster_profile import load_profile
    from orchestrator.clusters.backend import LIVE_STATES
    from orchestrator.clusters.submit import backend_for

    backend = backend_for(load_profile(to))
    row = backend.status(name)
    if row.state in LIVE_STATES:
        if not json:
            print(f"{row.name} ({row.id}) saves and ends", flush=True)
        backend.stop(name)
        row = backend.status(name)
    if json:
        print_json(row.to_dict())
    else:
        print(status_line(row))


@app.command()
def diff(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values in place of the file's."),
    ] = None,
    to: Annotated[str | None, CLUSTER] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """What differs between a job file and what has its name: on a cluster, or in its storage."""
    from orchestrator.cli.output import print_json
    from orchestrator.cluster_profile import load_profile
    from orchestrator.clusters.job_diff import diff_job
    from orchestrator.job import load_job

    found = diff_job(load_job(job, overrides or []), load_profile(to) if to else None)
    if json:
        print_json({"where": found.where, "changes": found.changes})
        return
    print(f"{found.where}: {'the same job' if not found.changes else 'there -> here'}")
    for line in found.changes:
        print(f"  {line}")


def _rows(to: str | None) -> list[SubmissionStatus]:
    """Rows of one cluster, or of all that answer; those that do not are named on stderr."""
    import sys

    from orchestrator.cluster_profile import load_profile
    from orchestrator.cluster_profile.loading import PROFILE_FOLDER
    from orchestrator.clusters.submit import backend_for
    from orchestrator.errors import RequestError

    if to is not None:
        return backend_for(load_profile(to)).list_submissions()
    files = sorted(PROFILE_FOLDER.glob("*.yaml"))
    if not files:
        raise RequestError(
            "no cluster profiles here", where=str(PROFILE_FOLDER), hint="name one: --to"
        )
    rows: list[SubmissionStatus] = []
    for file in files:
        try:
            rows += backend_for(load_profile(file)).list_submissions()
        except RequestError as error:
            print(f"{file.stem}: {error.what}", file=sys.stderr)
    return sorted(rows, key=lambda row: -(row.submitted_at or 0.0))


def _clock(seconds: float | None) -> str:
    """A moment as the clock on the wall shows it."""
    import datetime

    if seconds is None:
        return ""
    return f"{datetime.datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="pack, train, embed, evaluate, study, tune, ...")],
    json: Annotated[bool, typer.Option("--json", help="As JSON schema.")] = False,
) -> None:
    """Every key of a job kind: its default, type, unit and meaning.

    The listing reads like a job file; `...` stands where a value must be given.
    """
    from orchestrator.cli.output import print_json, print_schema
    from orchestrator.job.schema_listing import job_schema, schema_lines

    if json:
        print_json(job_schema(kind))
        return
    print_schema(schema_lines(kind))
