"""`orchestrator cluster`: profiles, the files that are rendered from them, and up and down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.paths import local_path

app = typer.Typer(
    help="Clusters: profiles, rendered files, up and down.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PROFILE = typer.Argument(metavar="PROFILE", help="cluster/PROFILE.yaml, or a file.")
JOB = typer.Argument(metavar="[JOB]", help="A job file: a file for this one job.")
YES = typer.Option("--yes", help="Do it; without, only say what would be done.")


@app.callback()
def group() -> None:
    """Clusters: profiles, rendered files, up and down."""


@app.command()
def render(
    profile: Annotated[str, PROFILE],
    job: Annotated[str | None, JOB] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values in place of the job file's."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", parser=local_path, help="Where the files go.")
    ] = Path("rendered"),
) -> None:
    """Write what brings a cluster up, or runs one job on it.

    kuberay: RayCluster or RayJob, MLflow server; slurm: a batch script; aws, gcp, onprem: a file
    for `ray up`. With an image also its Dockerfile. Files of other names in DIR stay.
    """
    from orchestrator.clusters.render.render import render_to

    for file in render_to(profile, job, overrides or [], out):
        print(file)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="local, onprem, kuberay, slurm, aws or gcp.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON schema.")] = False,
) -> None:
    """Every key of a kind of cluster: its default, type, unit and meaning.

    The listing reads like a profile; `...` stands where a value must be given.
    """
    from orchestrator.cli.output import print_json, print_schema
    from orchestrator.cluster_profile import profile_schema
    from orchestrator.job.schema_listing import schema_lines_of_json_schema

    found = profile_schema(kind)
    if json:
        print_json(found)
    else:
        print_schema(schema_lines_of_json_schema(found))


@app.command()
def up(profile: Annotated[str, PROFILE], yes: Annotated[bool, YES] = False) -> None:
    """Bring a cluster up: `ray up`, or `kubectl apply` for kuberay.

    It may rent machines, so it asks for --yes.
    """
    from orchestrator.clusters.cluster_up_down import bring_up

    bring_up(profile, yes=yes)


@app.command()
def down(profile: Annotated[str, PROFILE], yes: Annotated[bool, YES] = False) -> None:
    """Take a cluster down: `ray down`, or `kubectl delete` of the RayCluster for kuberay.

    An MLflow server and its database stay.
    """
    from orchestrator.clusters.cluster_up_down import take_down

    take_down(profile, yes=yes)
