"""`orchestrator doctor`: is this machine, or a cluster, fit for a job?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.clusters.doctor import CheckResult
    from orchestrator.job import Job

_UNFIT = 2
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="A job file (YAML).")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values in place of the file's."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="CLUSTER", help="A cluster profile: look at it from here."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Look for what would stop a job, before it does.

    On every node of the Ray cluster that RAY_ADDRESS names, or on this machine; with --to at what
    can be seen from here, and the rest is looked at there when a job is submitted. Exit code 2 if
    a check fails.
    """
    from orchestrator.job import load_job

    checked = load_job(job, overrides or []) if job else None
    found = _check_from_client(to, checked) if to else _check_nodes(checked, quiet=json)
    if json:
        from orchestrator.cli.output import print_json

        print_json([one.to_dict() for one in found])
    else:
        _show(found)
    if any(one.state == "fail" for one in found):
        raise typer.Exit(_UNFIT)


def _check_from_client(to: str, job: Job | None) -> list[CheckResult]:
    from pathlib import Path

    from orchestrator.cluster_profile import load_profile
    from orchestrator.clusters.adapt_job import adapt_job
    from orchestrator.clusters.doctor import check_from_client

    profile = load_profile(to)
    return check_from_client(profile, adapt_job(job, profile, Path.cwd()) if job else None)


def _check_nodes(job: Job | None, *, quiet: bool) -> list[CheckResult]:
    from orchestrator.cli.progress_display import open_progress
    from orchestrator.clusters.doctor import diagnose

    with open_progress(quiet=quiet, json=quiet) as progress:
        return diagnose(job, job.storage if job else ".orchestrator", progress)


def _show(found: list[CheckResult]) -> None:
    from rich.markup import escape

    from orchestrator.cli.output import console

    screen = console()
    for one in found:
        head = f"[{_COLOURS[one.state]}]{one.state:<6}[/]{one.check:<13}"
        screen.print(f"{head}{escape(one.text)}", soft_wrap=True)
        if one.hint:
            screen.print(f"{'':<19}[dim]hint:[/] {escape(one.hint)}", soft_wrap=True)
    failed = sum(one.state == "fail" for one in found)
    warned = sum(one.state == "warn" for one in found)
    checks = len({one.check for one in found})
    screen.print(f"{checks} checks: {failed} failed, {warned} warned")
