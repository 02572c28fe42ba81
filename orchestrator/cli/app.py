"""The `orchestrator` command: its groups, and what becomes of an error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli import bench, cluster, data, doctor, jobs, models, plan, run, submit, ui
from orchestrator.errors import OrchestratorError

_INTERRUPTED = 130

app = typer.Typer(
    help="Distributed training of JEPA world models on Ray: video in, a judged model out.",
    epilog="Exit codes: 0 done, 1 the job failed, 2 the request was wrong, 130 interrupted.",
    no_args_is_help=True,
    # Rich's help and the completion's installer would double the time of `--help`.
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run.run)
app.command()(submit.submit)
app.command()(plan.plan)
app.command()(doctor.doctor)
app.command()(ui.ui)
app.add_typer(jobs.app, name="jobs")
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(cluster.app, name="cluster")
app.add_typer(bench.app, name="bench")


def _version(asked: bool) -> None:
    if asked:
        from orchestrator import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What every command takes; `main` acts on --debug."""


def main() -> None:
    """Run the command line and exit with its code."""
    args = [arg for arg in sys.argv[1:] if arg != "--debug"]
    debug = len(args) < len(sys.argv) - 1
    try:
        app(args, prog_name="orchestrator")
    except OrchestratorError as error:
        if debug:
            raise
        print(f"{error.prefix}{error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print(
                "interrupted; what was saved stays, and the same command continues from it"
                " (an evaluation saves nothing on its way: it begins again)",
                file=sys.stderr,
            )
        raise
    except Exception as error:
        import traceback

        traceback.print_exc()
        print(
            f"error: {type(error).__name__} that orchestrator did not foresee; this is a bug,"
            " please report it with the lines above",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
