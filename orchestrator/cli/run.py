"""`orchestrator run`: a job of any kind, here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from orchestrator.job import Job
    from orchestrator.runner import RunSummary

# A summary shows these of a training's metrics, in this order, where they are there.
_HEADLINES = {
    "train/loss": "loss",
    "health/rankme": "RankMe",
    "health/feature_std": "feature std",
    "health/teacher_distance": "teacher distance",
    "speed/mfu": "MFU",
}


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
        bool, typer.Option("--fresh", help="Begin anew under this name; the old run is set aside.")
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
    checked = _job(job, overrides or [], source, tracking)

    from orchestrator.cli.terminal import open_progress
    from orchestrator.runner import run as run_job

    with open_progress(quiet=quiet, json=json) as progress:
        summary = run_job(checked, fresh=fresh, local=local, profile=profile, progress=progress)
    if json:
        from orchestrator.cli.show import print_json

        print_json(summary.to_dict())
    elif quiet:
        print(_last_line(summary))
    else:
        show_summary(summary)


def _job(job: str | None, overrides: list[str], source: str | None, tracking: str | None) -> Job:
    from orchestrator.errors import RequestError
    from orchestrator.job import build_job, load_job

    if source is None:
        if job is None:
            raise RequestError(
                "which job?", where="run", mend="orchestrator run jobs/physics/quick.yaml"
            )
        return load_job(job, overrides)
    if job is not None:
        overrides = [job, *overrides]
    for override in overrides:
        if "=" not in override:
            raise RequestError(
                f"'{override}' beside --from {source}",
                where="run",
                mend="give a job file or --from RUN, not both; what follows is KEY=VALUE",
            )
    from orchestrator.tracking.run import job_of_run

    return build_job(job_of_run(tracking, source), overrides, where=f"run {source}")


def show_summary(summary: RunSummary) -> None:
    """One screen: what was made, the final numbers, where it lives, what to do next."""
    from rich.markup import escape

    from orchestrator.cli.show import console

    screen = console()
    screen.print(f"\n[bold green]done[/] [bold]{escape(_headline(summary))}[/]")
    for name, text in _facts(summary):
        screen.print(f"  [dim]{name:<12}[/]{escape(text)}", soft_wrap=True)
    if summary.next_steps:
        screen.print("[bold]next[/]")
        for step in summary.next_steps:
            screen.print(f"  {escape(step)}", soft_wrap=True)
    screen.print(escape(_last_line(summary)), soft_wrap=True)


def _headline(summary: RunSummary) -> str:
    from orchestrator.cli.show import duration

    took = duration(summary.seconds)
    if summary.kind == "evaluate":
        return f"{summary.name}: judged in {took}"
    if summary.kind != "train":
        return f"{summary.name}: packed in {took}"
    text = f"{summary.name}: {summary.steps:,} steps in {took}, {summary.clips_per_s:.3g} clips/s"
    if summary.seconds_to_first_step is not None:
        text += f", first step after {duration(summary.seconds_to_first_step)}"
    return text


def _facts(summary: RunSummary) -> list[tuple[str, str]]:
    from orchestrator.cli.show import duration, size

    rows: list[tuple[str, str]] = []
    data = summary.dataset
    if data:
        text = f"{data['clips']:,} clips, {duration(3600 * data['hours'])}, {size(data['bytes'])}"
        if data.get("quarantined"):
            text += f", {data['quarantined']:,} quarantined"
        rows.append(("data", text))
        rows += [("", uri) for uri in data["uris"]]
    numbers = [
        f"{label} {summary.metrics[name]:.4g}"
        for name, label in _HEADLINES.items()
        if name in summary.metrics
    ]
    if numbers:
        rows.append(("result", "   ".join(numbers)))
    if summary.verdict:
        rows += _judged(summary.verdict)
    if summary.phases:
        parts = [f"{name} {1000 * seconds:.1f} ms" for name, seconds in summary.phases.items()]
        rows.append(("a step", "   ".join(parts)))
    for name, text in (
        ("model", summary.model_uri),
        ("checkpoint", summary.checkpoint),
        ("report", summary.report),
        ("run", f"{summary.run_id} in {summary.tracking_uri}" if summary.run_id else ""),
    ):
        if text:
            rows.append((name, text))
    return rows


def _judged(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """The headline of an evaluation, and a line for each scenario."""
    rows = []
    for name, chance in (("quad", 25), ("pair", 50)):
        found = verdict["overall"][name]
        text = f"{name}s right {_percent(found)}, chance {chance}%"
        if verdict["random"]:
            each = [one[name] for one in verdict["random"]]
            text += f", {len(each)} random models {100 * sum(each) / len(each):.1f}%"
        rows.append(("result" if name == "quad" else "", text))
    for name, row in verdict["scenarios"].items():
        rows.append((name, f"quads {_percent(row['quad'])}   pairs {_percent(row['pair'])}"))
    for tier in ("sanity", "arrow"):
        shares = [f"{name} {_percent(row['share'])}" for name, row in verdict.get(tier, {}).items()]
        if shares:
            rows.append((tier, "   ".join([*shares, "chance 50%"])))
    return rows


def _percent(found: dict[str, float]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['value']:.1f}% [{low:.0f}, {high:.0f}]"


def _last_line(summary: RunSummary) -> str:
    """The one line that `--quiet` shows: where the result is."""
    if summary.kind == "evaluate":
        return f"report {summary.report}"
    if summary.kind == "train":
        return f"model {summary.model_uri or summary.checkpoint}"
    return "dataset " + " ".join(summary.dataset.get("uris", []))
