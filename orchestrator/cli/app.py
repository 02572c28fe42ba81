"""The `orchestrator` command: its groups, and what becomes of an error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli import bench, cluster, data, doctor, jobs, models, plan, run, submit, ui
from orchestrator.cli.stderr_and_pipes import (
    install_exception_hooks,
    print_stderr,
    stdout_reader_closed,
)
from orchestrator.unexpected import save_traceback, to_orchestrator_error

_INTERRUPTED = 130
_WAS_INTERRUPTED = (
    "interrupted; what was saved stays, and the same command continues from it"
    " (an evaluation saves nothing on its way: it begins again)"
)
_CLOSED_PIPE = 128 + 13
"""As shells tell of SIGPIPE: the reader of the output, `head` for one, had enough."""

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
        from orchestrator.version import __version__

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
    if not debug:
        install_exception_hooks()
    code = _run(args, debug)
    # What is still buffered would be written when no error can be handled any more.
    raise SystemExit(_CLOSED_PIPE if stdout_reader_closed(flush=True) and code == 0 else code)


def _run(args: list[str], debug: bool) -> int:
    """Run one command and say what went wrong; its exit code."""
    try:
        app(args, prog_name="orchestrator")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code == 1 and stdout_reader_closed():  # so click and rich end where they cannot print
            return _CLOSED_PIPE
        if code == _INTERRUPTED:
            print_stderr(_WAS_INTERRUPTED)
        return code
    except KeyboardInterrupt:  # a second one, while the first is dealt with
        print_stderr(_WAS_INTERRUPTED)
        return _INTERRUPTED
    except Exception as error:
        if debug:
            raise
        told = to_orchestrator_error(error)
        save_traceback(told)
        print_stderr(f"{told.prefix}{told}")
        return told.exit_code
    return 0
