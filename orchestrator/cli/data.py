"""`orchestrator data`: look at video and check packed datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.paths import local_path

if TYPE_CHECKING:
    from orchestrator.job import TrainJob

app = typer.Typer(
    help="Look at video and check packed datasets.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def inspect(
    source: Annotated[
        str, typer.Argument(metavar="JOB|SOURCE", help="A train job, or video of any kind.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values of the job.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", parser=local_path, help="The picture to write.")
    ] = Path("sheet.png"),
    clips: Annotated[int, typer.Option("--clips", min=1, help="Clips on the sheet.")] = 6,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Draw clips, crops and masks as a training would see them.

    A contact sheet, and what the source holds. Nothing is packed or stored.
    """
    from dataclasses import asdict

    from orchestrator.cli.output import print_json
    from orchestrator.data.inspection.report import inspect_dataset

    report = inspect_dataset(train_job_of(source, overrides or []), out, clips)
    if json:
        print_json(asdict(report))
    else:
        print(report)


@app.command()
def verify(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    clips: Annotated[
        int | None,
        typer.Option("--clips", min=0, help="Read only this many clips, evenly spread; 0: none."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compare a packed dataset with its index.

    By default every byte is read. Exit code 1 when something is wrong.
    """
    from orchestrator.cli.output import print_json
    from orchestrator.data.packing.verify import verify_dataset
    from orchestrator.data.store.index import DatasetIndex

    index = DatasetIndex.open(uri)
    problems = verify_dataset(index, clips)
    if json:
        print_json(
            {"uri": uri, "clips": index.num_clips, "digest": index.digest, "wrong": problems}
        )
    elif problems:
        print("\n".join(problems))
        print(f"{len(problems)} wrong in {uri}; pack it again, or restore the tars")
    else:
        looked = index.num_clips if clips is None else min(clips, index.num_clips)
        print(f"{uri}: {index.num_clips:,} clips, {looked:,} read, all as indexed")
    raise typer.Exit(1 if problems else 0)


@app.command()
def audit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The name of a train job that ran.")],
    storage: Annotated[str, typer.Option("--storage", help="Where the run is.")] = ".orchestrator",
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Was every clip trained on as the order says, once, through every crash?

    Compares the ledger of what entered the forward with the order, up to the newest
    checkpoint. Exit code 1 when something does not hold.
    """
    from orchestrator.cli.output import print_json
    from orchestrator.storage import Storage
    from orchestrator.training.audit import audit_run

    report = audit_run(Storage(storage), run)
    if json:
        print_json(report.to_dict())
    else:
        print(
            f"{run}: {report.steps:,} steps, {report.positions:,} positions,"
            f" {report.passes:.2f} passes over the clips\n"
            f"  {report.trained:,} trained, each once and with the bytes that were indexed\n"
            f"  {report.failed:,} could not be used: weight 0, with their reasons\n"
            f"  {report.superseded:,} rows superseded, of {report.starts} starts"
        )
        for line in report.wrong:
            print(f"  wrong: {line}")
        if not report.good:
            print(f"{report.wrongs:,} wrong")
    raise typer.Exit(0 if report.good else 1)


def train_job_of(source: str, overrides: list[str]) -> TrainJob:
    """The train job of a file, or of a video source with every other key at its default."""
    from orchestrator.job import TrainJob, build_job, load_job, require_kind

    if source.endswith((".yaml", ".yml")):
        job = load_job(source, overrides)
    else:
        data = {"kind": "train", "name": "look", "data": {"source": source}, "optim": {"steps": 1}}
        job = build_job(data, overrides, source=source)
    return require_kind(job, TrainJob, source)
