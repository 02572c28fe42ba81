"""`orchestrator submit`: a job of any kind, on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.clusters.backend import Backend, SubmissionStatus
    from orchestrator.clusters.submit import SubmitResult

CLUSTER = typer.Option(
    "--to", metavar="CLUSTER", help="A profile: cluster/CLUSTER.yaml, or the path of one."
)
_INTERRUPTED, _STOPPED = 130, 143


def submit(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file (YAML).")],
    to: Annotated[str, CLUSTER],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values in place of the file's."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show its log to its end; exit with its exit code.")
    ] = False,
    no_doctor: Annotated[
        bool, typer.Option("--no-doctor", help="Without checking the cluster first.")
    ] = False,
    code_limit: Annotated[
        float, typer.Option("--code-limit", metavar="MIB", min=0.001, help="Code at most, in MiB.")
    ] = 50.0,
    json: Annotated[
        bool, typer.Option("--json", help="As JSON on stdout; a followed log goes to stderr.")
    ] = False,
) -> None:
    """Send a job to a cluster, with the code of this folder.

    It runs there by itself. What is there already under this name, is the same and goes on, is not
    sent again.

    Examples:

        orchestrator submit jobs/physics/quick.yaml --to rack --follow

        orchestrator submit jobs/video/pretrain.yaml scale.workers=64 --to kuberay
    """
    from orchestrator.cluster_profile import load_profile
    from orchestrator.clusters.submit import backend_for, with_links
    from orchestrator.clusters.submit import submit as send
    from orchestrator.job import load_job

    profile = load_profile(to)
    sent = send(
        load_job(job, overrides or []), profile, doctor=not no_doctor, code_limit_mib=code_limit
    )
    row = sent.row
    if not json:
        _show(sent, to)
    if follow:
        row = with_links(_follow(backend_for(profile), row, to, to_stderr=json), profile)
    if json:
        from orchestrator.cli.output import print_json

        print_json({**row.to_dict(), "attached": sent.attached, "notes": list(sent.notes)})
    elif follow:
        print(status_line(row))
    if follow:
        raise typer.Exit(exit_code(row))


def status_line(row: SubmissionStatus) -> str:
    """One line of how a job stands or ended."""
    from orchestrator.text import format_duration

    text = f"{row.state} {row.name} ({row.id} on {row.cluster})"
    if row.ended_at and row.submitted_at:
        text += f" after {format_duration(row.ended_at - row.submitted_at)}"
    if row.exit_code:
        text += f", exit code {row.exit_code}"
    return text


def exit_code(row: SubmissionStatus) -> int:
    """The job's own exit code; where nobody saw it, the one that its end has."""
    if row.exit_code is not None:
        return row.exit_code
    return {"done": 0, "stopped": _STOPPED}.get(row.state, 1)


def _follow(
    backend: Backend, row: SubmissionStatus, to: str, *, to_stderr: bool
) -> SubmissionStatus:
    """Show the log to its end; gives the row as it is then."""
    import sys

    stream = sys.stderr if to_stderr else sys.stdout
    try:
        for piece in backend.logs(row.name, follow=True):
            print(piece, end="", file=stream, flush=True)
        return backend.status(row.name)
    except KeyboardInterrupt:
        print(
            f"\nno longer followed; the job itself goes on\n"
            f"  orchestrator jobs logs {row.name} --to {to} --follow\n"
            f"  orchestrator jobs stop {row.name} --to {to}",
            file=sys.stderr,
        )
        raise SystemExit(_INTERRUPTED) from None


def _show(sent: SubmitResult, to: str) -> None:
    from orchestrator.text import format_bytes

    row = sent.row
    if sent.attached:
        print(f"{row.name} is {row.state} there already ({row.id} on {row.cluster})")
    else:
        print(
            f"sent {row.name} to {row.cluster} as {row.id},"
            f" with {format_bytes(sent.code_bytes)} of code"
        )
    for note in sent.notes:
        print(f"  {note}")
    show_links(row)
    print("next")
    print(f"  orchestrator jobs logs {row.name} --to {to} --follow")
    print(f"  orchestrator jobs stop {row.name} --to {to}   # saves first", flush=True)


def show_links(row: SubmissionStatus) -> None:
    """The pages where it is seen, one a line."""
    for name, page in (row.links or {}).items():
        print(f"  {name:<12}{page}")
