"""`orchestrator run`: a job of any kind, here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.unexpected import error_context, to_orchestrator_error

if TYPE_CHECKING:
    from orchestrator.job import Job
    from orchestrator.runner import RunSummary

# A summary shows these of a training's metrics, in this order, where they are there.
_HEADLINES = {
    "train/loss": "loss",
    "health/rankme": "RankMe",
    "health/feature_std": "feature std",
    "health/lidar": "LiDAR",
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
            summary = run_job(checked, fresh=fresh, local=local, profile=profile, progress=progress)
        except BrokenPipeError as error:  # of the job: click would take it for one of stdout's
            raise to_orchestrator_error(error) from error
    with error_context("showing the summary: the job is done"):
        if json:
            from orchestrator.cli.output import print_json

            print_json(summary.to_dict())
        elif quiet:
            print(_result_line(summary))
        else:
            show_summary(summary)


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


def show_summary(summary: RunSummary) -> None:
    """One screen: what was made, the final numbers, where it lives, what to do next."""
    from rich.markup import escape

    from orchestrator.cli.output import console

    screen = console()
    screen.print(f"\n[bold green]done[/] [bold]{escape(_headline(summary))}[/]")
    for name, text in _facts(summary):
        screen.print(f"  [dim]{name:<12}[/]{escape(text)}", soft_wrap=True)
    if summary.next_steps:
        screen.print("[bold]next[/]")
        for step in summary.next_steps:
            screen.print(f"  {escape(step)}", soft_wrap=True)
    screen.print(escape(_result_line(summary)), soft_wrap=True)


def _headline(summary: RunSummary) -> str:
    from orchestrator.cli.output import format_duration

    took = format_duration(summary.seconds)
    if summary.kind == "evaluate":
        return f"{summary.name}: {'probed' if summary.probe else 'judged'} in {took}"
    if summary.kind == "embed":
        return f"{summary.name}: embedded in {took}"
    if summary.kind == "study":
        return f"{summary.name}: {len(summary.verdict['cells'])} models in {took}"
    if summary.kind == "promote":
        return f"{summary.name}: promoted"
    if summary.kind == "pipeline":
        kept = sum(row["state"] == "kept" for row in summary.stages)
        text = f"{summary.name}: {len(summary.stages)} stages in {took}"
        return text + (f", {kept} of them done before" if kept else "")
    if summary.kind == "tune":
        best = f"trial {summary.verdict['best']} won"
        return f"{summary.name}: {len(summary.verdict['trials'])} trials in {took}, {best}"
    if summary.kind != "train":
        return f"{summary.name}: packed in {took}"
    text = f"{summary.name}: {summary.steps:,} steps in {took}, {summary.clips_per_s:.3g} clips/s"
    if summary.seconds_to_first_step is not None:
        text += f", first step after {format_duration(summary.seconds_to_first_step)}"
    return text


def _facts(summary: RunSummary) -> list[tuple[str, str]]:
    from orchestrator.cli.output import format_bytes, format_duration
    from orchestrator.job.config.train import EVAL_METRIC_PREFIX

    rows: list[tuple[str, str]] = []
    data = summary.dataset
    if data:
        text = f"{data['clips']:,} clips, {format_duration(3600 * data['hours'])}"
        text += f", {format_bytes(data['bytes'])}"
        if data.get("quarantined"):
            text += f", {data['quarantined']:,} quarantined"
        rows.append(("data", text))
        rows += [("", uri) for uri in data["uris"]]
    if summary.features:
        rows += embed_rows(summary.features)
    numbers = [
        f"{label} {summary.metrics[name]:.4g}"
        for name, label in _HEADLINES.items()
        if name in summary.metrics
    ]
    if numbers:
        rows.append(("result", "   ".join(numbers)))
    rows += [
        ("", f"{key.split('/')[1]} of the last step: quads right {100 * value:.1f}%")
        for key, value in summary.metrics.items()
        if key.startswith(EVAL_METRIC_PREFIX) and key.endswith("/quad_accuracy")
    ]
    if summary.note:
        rows.append(("alias", summary.note))
    rows += [
        (
            row["name"],
            f"{row['kind']:<9} {format_duration(row['seconds']):<12}  {row['text']}".rstrip(),
        )
        for row in summary.stages
    ]
    if summary.kind == "tune":
        rows += sweep_rows(summary.verdict)
    elif summary.kind == "study":
        rows += study_rows(summary.verdict)
    elif summary.verdict.get("kind") == "planning":
        rows += planning_rows(summary.verdict)
    elif summary.verdict:
        public = "benchmark" in summary.verdict
        rows += (benchmark_rows if public else suite_rows)(summary.verdict)
    if summary.probe:
        rows += probe_rows(summary.probe)
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


def embed_rows(features: dict[str, Any]) -> list[tuple[str, str]]:
    """What was written, of what, and what could not be."""
    from orchestrator.cli.output import format_bytes

    text = f"{features['rows']:,} clips, {features['dtype']} {features['shape']} each"
    rows = [("features", f"{text}, {format_bytes(features['bytes'])}"), ("", features["uri"])]
    digests = ", ".join(f"{one['source']} ({one['digest']})" for one in features["data"])
    rows += [("of", f"model {features['model']}, data {digests}")]
    bad = [f"{features[key]:,} {key}" for key in ("failed", "short") if features[key]]
    if features["quarantined"]:
        bad.append(f"{features['quarantined']:,} quarantined while packing")
    if bad:
        rows.append(("left out", f"{', '.join(bad)}: see bad.parquet there"))
    return rows


def suite_rows(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """The headline of an evaluation, and a line for each scenario."""
    rows = []
    for name, chance in (("quad", 25), ("pair", 50)):
        found = verdict["overall"][name]
        text = f"{name}s right {format_percent_interval(found)}, chance {chance}%"
        if verdict["random"]:
            each = [one[name] for one in verdict["random"]]
            text += f", {len(each)} random models {100 * sum(each) / len(each):.1f}%"
        rows.append(("result" if name == "quad" else "", text))
    for name, row in verdict["scenarios"].items():
        text = f"quads {format_percent_interval(row['quad'])}"
        rows.append((name, f"{text}   pairs {format_percent_interval(row['pair'])}"))
    for tier in ("sanity", "arrow"):
        shares = [
            f"{name} {format_percent_interval(row['share'])}"
            for name, row in verdict.get(tier, {}).items()
        ]
        if shares:
            rows.append((tier, "   ".join([*shares, "chance 50%"])))
    return [*rows, ("protocol", verdict["protocol"])]


def benchmark_rows(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """A public benchmark's headline, a line for each property, and what was left out."""
    rows: list[tuple[str, str]] = []
    for name, found in verdict["overall"].items():
        text = f"{name} {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
        each = [one[name] for one in verdict["random"] if name in one]
        if each:
            text += f", {len(each)} random models {sum(each) / len(each):.3f}"
        rows.append(("" if rows else "result", text))
    for name, row in verdict.get("properties", {}).items():
        rows.append(
            (
                name,
                f"pairs {format_percent_interval(row['pair'])}   AUROC {row['auroc']['value']:.2f}",
            )
        )
    for arm, found in verdict.get("probe", {}).items():
        text = ", ".join(f"{name} {r2:.2f}" for name, r2 in found.items() if r2 is not None)
        rows.append(("probe", f"R2 of the {arm}'s features: {text}"))
    counts = verdict["counts"]
    text = f"{counts['scored']} scored, {counts['chosen_on']} chosen on"
    rows.append(("scenes", f"{text}, {counts['left_out']} left out"))
    return [*rows, ("protocol", verdict["protocol"])]


def probe_rows(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """A line for each target: the model's score, and what stands beside it."""
    from orchestrator.evaluation.probes.report import format_score

    arms = verdict["arms"]
    rows = []
    for name, own in arms["model"]["scores"].items():
        parts = [f"{own['metric']} {format_score(own)}"]
        for arm, title in (("random", "random weights"), ("baseline", "without features")):
            if arm in arms:
                parts.append(f"{title} {format_score(arms[arm]['scores'][name])}")
        rows.append((name, "   ".join(parts)))
    split = "   ".join(f"{side} {one['videos']:,}" for side, one in verdict["split"].items())
    rows.append(("videos", f"{split}   protocol {verdict['protocol']}"))
    return rows


def planning_rows(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """A line for each arm: goals reached, and what a decision took."""
    rows = []
    for name, arm in verdict["arms"].items():
        text = f"{format_percent_interval(arm['success'])} of {arm['tasks']} goals reached"
        gain = verdict["gain"].get(name)
        if gain is not None:
            ends = f"{100 * gain['low']:+.0f}, {100 * gain['high']:+.0f}"
            text += f"   the model over it {100 * gain['value']:+.1f} points [{ends}]"
        rows.append((name, f"{text}   {arm['ms']:.3g} ms a decision"))
    return [*rows, ("protocol", verdict["protocol"])]


def study_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """A line for each arm's curve, and for each ratio."""
    from orchestrator.study.report import format_claim

    rows = []
    for panel in result["panels"]:
        rows.append((panel["score"], f"R2 by number of videos, {panel['background']} background"))
        for arm, scores in panel["arms"].items():
            means = [sum(column) / len(column) for column in zip(*scores, strict=True)]
            counts = result["clips"] if len(means) > 1 else ["untrained"]
            text = "   ".join(f"{n}: {m:.3f}" for n, m in zip(counts, means, strict=True))
            rows.append(("", f"{arm:<12}{text}"))
        for arm, ratio in panel["ratios"].items():
            rows.append(("", format_claim(ratio, result["reference"], arm)))
    return rows


def sweep_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """A line for each trial, best first."""
    rows: list[tuple[str, str]] = []
    for row in result["trials"]:
        values = "  ".join(f"{key}={_format_value(value)}" for key, value in row["values"].items())
        score = "" if row["objective"] is None else f"{row['objective']:.4f}"
        loss = "" if row["loss"] is None else f"loss {row['loss']:.4f}"
        text = f"{row['number']:>3}  {row['state']:<9}  {score:>7}  {loss:<11}  {values}"
        rows.append(("" if rows else "trials", text))
    for one in result["slots"][-1:]:
        rows.append(("slots", _slot_usage_text(one)))
    for key, share in result["importance"].items():
        rows.append(("importance" if key == next(iter(result["importance"])) else "",
                     f"{key} {share:.2f}"))  # fmt: skip
    return rows


def _slot_usage_text(one: dict[str, Any]) -> str:
    """What became of the worker slots of a sweep's last launch."""
    if not one["waited_slot_s"]:
        return f"{one['slots']} for workers; no trial had to wait for room"
    parts = {"training": "training", "starting": "starting groups", "unreserved": "unreserved"}
    shares = ", ".join(f"{text} {100 * one[key]:.1f}%" for key, text in parts.items())
    return f"{one['slots']} for workers, while a trial waited: {shares}"


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value.get("kind", value)) if isinstance(value, dict) else str(value)


def format_percent_interval(found: dict[str, float]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['value']:.1f}% [{low:.0f}, {high:.0f}]"


def _result_line(summary: RunSummary) -> str:
    """The one line that `--quiet` shows: where the result is."""
    if summary.kind in ("evaluate", "study"):
        return f"report {summary.report}"
    if summary.kind == "embed":
        return f"features {summary.features['uri']}"
    if summary.kind == "pipeline":
        last = summary.stages[-1]
        return f"{last['name']} {last['text']}".rstrip()
    if summary.kind in ("train", "tune", "promote"):
        return f"model {summary.model_uri or summary.checkpoint}"
    return "dataset " + " ".join(summary.dataset.get("uris", []))
