"""The commands of `orchestrator bench` that are about searches: what ranks trials, what finds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.paths import local_path

TUNE_JOB = typer.Argument(metavar="JOB", help="A tune job (YAML).")
OVERRIDES = typer.Argument(metavar="KEY=VALUE", help="Values in place of the file's.")
CONFIDENCE = 0.95


def objectives(
    job: Annotated[str, TUNE_JOB],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    trials: Annotated[int, typer.Option("--trials", min=8, help="Trainings.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where models and results are kept, for the next time; default: nowhere."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measure how well trials can be ranked without labels.

    Trains points of the job's space, one after the other, in this process. Each model is scored by
    the probe of states or labels and by all that needs none; prints the rank correlations.
    """
    from orchestrator.bench.tuning_objectives import bench_tuning_objectives
    from orchestrator.cli.output import print_json, print_table
    from orchestrator.cli.progress_display import open_progress

    checked = _tune_job(job, overrides or [])
    with open_progress(quiet=False, json=json) as progress:
        found = bench_tuning_objectives(checked, trials, CONFIDENCE, progress, out)
    if json:
        print_json(found)
        return
    names = list(found["correlation"])
    rows = [
        [
            str(row["trial"]),
            ", ".join(f"{key.split('.')[-1]}={_short(one)}" for key, one in row["point"].items()),
            row["shut"][0].split(":")[0] if row["shut"] else "",
            f"{row['scores'].get('probe', float('nan')):.3f}",
            *(f"{row['scores'].get(name, float('nan')):.3g}" for name in names),
        ]
        for row in sorted(found["trials"], key=lambda row: -row["scores"].get("probe", -9.0))
    ]
    print_table(["trial", "values", "gate shut", "probe", *names], rows, numbers=len(names) + 1)
    print(f"\nrank correlation with the probe over {found['compared']} trials that pass the gates:")
    lines = [
        [name, f"{one['value']:+.2f}", f"{one['low']:+.2f} to {one['high']:+.2f}"]
        for name, one in found["correlation"].items()
    ]
    print_table(["", "Spearman", f"{CONFIDENCE:.0%} interval"], lines, numbers=2)


def search(
    job: Annotated[str, TUNE_JOB],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Searches of each kind.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=local_path,
            help="Where results are kept, for the next time.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Race TPE with ASHA against random search, at the same number of optimizer steps.

    Each search may take the steps of the job's `trials` whole trials, trained one after the other
    in this process. The winner is scored again on videos that no trial was scored on.
    """
    from orchestrator.bench.search_methods import BUDGET_FRACTIONS, TRIAL_END_STATES, bench_search
    from orchestrator.cli.output import print_json, print_table
    from orchestrator.cli.progress_display import open_progress

    checked = _tune_job(job, overrides or [])
    with open_progress(quiet=False, json=json) as progress:
        found = bench_search(checked, seeds, progress, out)
    if json:
        print_json(found)
        return
    rows = [
        [
            row["method"],
            str(row["seed"]),
            *_scores(row),
            *(str(row[one]) for one in TRIAL_END_STATES),
        ]
        for row in found["rows"]
    ]
    rows += [
        [method, "mean", *_scores(one), *[""] * len(TRIAL_END_STATES)]
        for method, one in found["means"].items()
    ]
    head = [f"best at {share:.0%}" for share in BUDGET_FRACTIONS]
    print_table(
        ["", "seed", *head, "fresh", *TRIAL_END_STATES],
        rows,
        numbers=len(head) + 1 + len(TRIAL_END_STATES),
    )
    print(f"{found['steps']:,} steps each; fresh: the winner on other videos")


def _scores(row: dict[str, Any]) -> list[str]:
    return ["none" if one is None else f"{one:.3f}" for one in (*row["best"], row["fresh"])]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return "+".join(_short(one) for one in value)
    if isinstance(value, dict):
        return str(value.get("kind", "multiblock"))
    return str(value)


def _tune_job(source: str, overrides: list[str]) -> Any:
    from orchestrator.job import TuneJob, load_job, require_kind

    return require_kind(load_job(source, overrides), TuneJob, source)
