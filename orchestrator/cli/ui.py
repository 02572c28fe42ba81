"""`orchestrator ui`: the runs in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

STORAGE = typer.Option("--storage", help="The storage of the jobs whose runs are meant.")
TRACKING = typer.Option("--tracking", metavar="URI", help="An MLflow server or database instead.")


def ui(
    storage: Annotated[str, STORAGE] = ".orchestrator",
    tracking: Annotated[str | None, TRACKING] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser on the page.")
    ] = True,
) -> None:
    """Show runs and models in a browser.

    Curves, pictures and models of all runs, until Ctrl-C.
    """
    from orchestrator.storage import Storage
    from orchestrator.tracking.ui import open_ui

    open_ui(Storage(storage), uri=tracking, port=port, open_browser=browser)
