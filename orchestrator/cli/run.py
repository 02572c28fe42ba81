"""`orchestrator run`: a job of any kind, on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.unexpected import error_context, to_orchestrator_error

if TYPE_CHECKING:
    from orchestrator.job import Job
    from orchestrator.outcome import Outcome


def run(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="A job file (YAML).")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values in place of the file's."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN", help="The job of an MLflow run (id or name)."),
    ] = None,
    tracking: Annotated[
        str | None,
        typer.Option("--tracking", metavar="URI", help="Where the run of --from is remembered."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin again under this name; the old run is archived.")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="One process, no Ray: a debugger works.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Leave a trace and where a step's time goes.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only errors and the last line.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout.")] = False,
) -> None:
    """Run a job here, to its end.

    On the Ray cluster that is there, or on this machine. The same name continues the same run.

    Examples:

        orchestrator run jobs/physics/quick.yaml

        orchestrator run jobs/video/pretrain.yaml data.source=videos
    """
    with error_context("reading the job"):
        checked = _job(job, overrides or [], source, tracking)

    import sys
    from contextlib import nullcontext, redirect_stdout

    from orchestrator.cli.progress_display import open_progress
    from orchestrator.runner import run as run_job

    # Ray prints what its raylets warn of; JSON has stdout for itself.
    aside = redirect_stdout(sys.stderr) if json else nullcontext()
    with aside, open_progress(quiet=quiet, json=json) as progress:
        try:
            outcome = run_job(checked, fresh=fresh, local=local, profile=profile, progress=progress)
        except BrokenPipeError as error:  # of the job: click would take it for one of stdout's
            raise to_orchestrator_error(error) from error
    with error_context("showing the summary: the job is done"):
        if json:
            from orchestrator.cli.output import print_json

            print_json(outcome.to_dict())
        elif quiet:
            print(outcome.result)
        else:
            show_summary(outcome)


def _job(job: str | None, overrides: list[str], source: str | None, tracking: str | None) -> Job:
    from orchestrator.errors import RequestError
    from orchestrator.job import build_job, load_job

    if source is None:
        if job is None:
            raise RequestError(
                "which job?", where="run", hint="orchestrator run jobs/physics/quick.yaml"
            )
        return load_job(job, overrides)
    if job is not None:
        overrides = [job, *overrides]
    for override in overrides:
        if "=" not in override:
            raise RequestError(
                f"'{override}' beside --from {source}",
                where="run",
                hint="give a job file or --from RUN, not both; what follows is KEY=VALUE",
            )
    from orchestrator.tracking.run import job_of_run

    return build_job(job_of_run(tracking, source), overrides, source=f"run {source}")


def show_summary(outcome: Outcome) -> None:
    """One screen: what was made, the final numbers, where it is, what to do next."""
    from rich.markup import escape

    from orchestrator.cli.output import console

    screen = console()
    headline = escape(f"{outcome.name}: {outcome.headline}")
    screen.print(f"\n[bold green]done[/] [bold]{headline}[/]")
    for name, text in outcome.all_rows():
        screen.print(f"  [dim]{name:<12}[/]{escape(text)}", soft_wrap=True)
    if outcome.next_steps:
        screen.print("[bold]next[/]")
        for step in outcome.next_steps:
            screen.print(f"  {escape(step)}", soft_wrap=True)
    screen.print(escape(outcome.result), soft_wrap=True)
