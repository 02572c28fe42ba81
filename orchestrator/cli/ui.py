"""`orchestrator ui`: the runs in a browser, here or through a tunnel to a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

STORAGE = typer.Option("--storage", help="The storage of the jobs whose runs are meant.")
TRACKING = typer.Option("--tracking", metavar="URI", help="An MLflow server or database instead.")


def ui(
    storage: Annotated[str, STORAGE] = ".orchestrator",
    tracking: Annotated[str | None, TRACKING] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="CLUSTER", help="A cluster's dashboard and MLflow, by name or file."
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="MLflow's, here.")] = 5000,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser on the page.")
    ] = True,
    show: Annotated[
        bool, typer.Option("--print", help="With --to: print the tunnels' commands, open none.")
    ] = False,
) -> None:
    """Show runs and models in a browser.

    Curves, pictures and models of all runs, until Ctrl-C. With --to those of a cluster, and Ray's
    dashboard, through tunnels that listen on 127.0.0.1 only.
    """
    if to is not None:
        _show_cluster(to, port, browser=browser, show=show)
        return
    from orchestrator.storage import Storage
    from orchestrator.tracking.ui import open_ui

    open_ui(Storage(storage), uri=tracking, port=port, open_browser=browser)


def _show_cluster(to: str, port: int, *, browser: bool, show: bool) -> None:
    import shlex
    import webbrowser

    from orchestrator.cluster_profile import load_profile
    from orchestrator.clusters.tunnels import cluster_pages, keep_open

    profile = load_profile(to)
    found = cluster_pages(profile, port)

    def tell() -> None:
        for name, page in found.urls.items():
            print(f"{name}: {page}")
            if browser and not show:
                webbrowser.open(page)
        if "dashboard" in found.urls:
            token = profile.token
            where = f"${token.env}" if token.env else token.file or "the cluster's token file"
            print(f"the dashboard asks for the token that submit uses: {where}")
        if found.tunnels and not show:
            print("Ctrl-C closes the tunnels", flush=True)

    for note in found.notes:
        print(note)
    if show or not found.tunnels:
        for tunnel in found.tunnels:
            print(shlex.join(tunnel.command))
        tell()
        return
    keep_open(found.tunnels, tell, print)
