"""`orchestrator bench`: measured speed, beside something to compare it with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import bench_tune
from orchestrator.paths import local_path

app = typer.Typer(
    help="Measure speed beside something to compare it with.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

JOB = typer.Argument(metavar="JOB", help="A train job (YAML).")
OVERRIDES = bench_tune.OVERRIDES


@app.callback()
def group() -> None:
    """Measure speed beside something to compare it with."""


@app.command()
def feed(
    job: Annotated[str, JOB],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Measured seconds of each contender.")
    ] = 60.0,
    webdataset: Annotated[
        bool, typer.Option("--webdataset", help="Race webdataset with a DataLoader as well.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Time the feed: decoded, augmented and masked clips a second.

    Bare loops over the same clips with the same decoder and resize take turns with it, in threads
    and in processes, and the decoder alone. Raw video is packed first.
    """
    from orchestrator.bench.feed import bench_feed
    from orchestrator.cli.data import train_job_of
    from orchestrator.cli.output import print_json, print_table
    from orchestrator.cli.progress_display import open_progress
    from orchestrator.data.packing.prepare import prepare_data
    from orchestrator.job import require_single_clip_spec
    from orchestrator.ray_session import ray_session
    from orchestrator.text import format_bytes
    from orchestrator.training.resolve.actions import resolve_actions

    checked = require_single_clip_spec(train_job_of(job, overrides or []), "bench feed")
    with ray_session(), open_progress(quiet=False, json=json) as progress:
        prepared = prepare_data(checked, progress)
        checked = resolve_actions(checked, prepared, progress, local=False)
        found = bench_feed(checked, prepared, seconds, webdataset)
    if json:
        print_json(found)
        return
    rows = [
        [who, f"{rate:.1f}", f"{found.get(f'feed_over_{who}', 1.0):.3f}"]
        for who, rate in found["clips_per_s"].items()
    ]
    print_table(["", "clips/s", "feed over it"], rows, numbers=2)
    store = found["store_bytes"]
    print(
        f"{found['clips']:,} clips of {found['frames']} frames at {found['size']} pixels,"
        f" {found['threads']} threads; object store {format_bytes(store['before'])} before,"
        f" {format_bytes(store['peak'])} at most, {format_bytes(store['after'])} after,"
        f" {format_bytes(found['spilled_bytes'])} spilled"
    )


@app.command()
def step(
    job: Annotated[str, JOB],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="CHECKOUT", help="A checkout of facebookresearch/vjepa2."
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Timed steps of each.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Time a training step in one process.

    Data is in memory. A bare DeepSpeed loop of the same model takes turns with it, and V-JEPA
    2's published step where a checkout is given.
    """
    from orchestrator.bench.training_step import bench_step
    from orchestrator.cli.data import train_job_of
    from orchestrator.cli.output import print_json, print_table
    from orchestrator.job import require_single_clip_spec

    found = bench_step(
        require_single_clip_spec(train_job_of(job, overrides or []), "bench step"), against, steps
    )
    if json:
        print_json(found)
        return
    rows = [
        [who, f"{seconds:.4f}", f"{found.get(f'{who}_over_ours', 1.0):.3f}",
         f"{found['first_loss'][who]:.6f}"]
        for who, seconds in found["step_s"].items()
    ]  # fmt: skip
    print_table(["", "s/step", "over ours", "first loss"], rows, numbers=3)
    shown = ("device", "threads", "clips", "zero", "precision", "compile", "steps")
    print(", ".join(f"{key} {found[key]}" for key in shown))
    print(f"ours: {_rates(found)}")


def _rates(found: dict[str, Any]) -> str:
    from orchestrator.text import format_number

    parts = [f"{found['clips_per_s']:.4g} clips/s"]
    if "flops_per_s" in found:
        parts.append(f"{format_number(found['flops_per_s'])}FLOP/s")
    if found.get("mfu") is not None:
        parts.append(f"MFU {100 * found['mfu']:.1f}%")
    if "memory_gib" in found:
        parts.append(f"peak memory {found['memory_gib']:.3g} GiB")
    return ", ".join(parts)


@app.command()
def memory(
    job: Annotated[str, JOB],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Ranks that train.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measure what a rank holds at every ZeRO stage, beside what `plan` says.

    Ranks train a few steps without Ray; the bytes of all tensors that are alive are counted.
    """
    from orchestrator.bench.memory import bench_memory
    from orchestrator.cli.data import train_job_of
    from orchestrator.cli.output import print_json, print_table
    from orchestrator.job import require_single_clip_spec
    from orchestrator.text import format_bytes

    found = bench_memory(
        require_single_clip_spec(train_job_of(job, overrides or []), "bench memory"), ranks
    )
    if json:
        print_json(found)
        return
    parts = ("parameters", "gradients", "optimizer", "teacher", "kept", "peak")
    rows = []
    for row in found["stages"]:
        name = f"ZeRO {row['stage']}{' + offload' if row['offload'] else ''}"
        for who in ("measured", "planned"):
            ratio = f"{row['planned_over_measured']:.3f}" if who == "planned" else ""
            rows.append([name, who, *[format_bytes(row[who][part]) for part in parts], ratio])
            name = ""
    print_table(["", "", *parts, "ratio"], rows, numbers=len(parts) + 1)
    print(f"{found['ranks']} ranks, {found['precision']}; the ratio is planned over measured peak")


@app.command()
def run(
    job: Annotated[str, JOB],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Steps of each, a round.")] = 60,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Time a whole run beside a bare DeepSpeed loop with data in memory.

    Both have the same model, batch, ranks and threads. Prints too how long the first step takes
    to come.
    """
    import tempfile

    from orchestrator.bench.orchestration_overhead import bench_orchestration
    from orchestrator.cli.data import train_job_of
    from orchestrator.cli.output import print_json, print_table

    with tempfile.TemporaryDirectory() as folder:
        found = bench_orchestration(train_job_of(job, overrides or []), Path(folder), steps, rounds)
    if json:
        print_json(found)
        return
    rows = [[who, f"{seconds:.4f}"] for who, seconds in found["step_s"].items()]
    print_table(["", "s/step"], rows, numbers=1)
    each = ", ".join(f"{ratio:.3f}" for ratio in found["ratios"])
    print(f"orchestrated over bare: {found['orchestrated_over_bare']:.3f} (rounds: {each})")
    print(f"first step ended {found['first_step_s']:.1f} s after `run`, with packed data")


@app.command()
def chaos(
    job: Annotated[str, JOB],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    blows: Annotated[int, typer.Option("--blows", min=1, help="Runs that are struck.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the moments.")] = 0,
    nodes: Annotated[
        bool, typer.Option("--nodes/--no-nodes", help="Kill whole nodes too, of a cluster here.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=local_path,
            help="Where the runs are kept; default: nowhere.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Kill ranks, drivers and nodes of a training, and show that nothing was lost.

    Each struck run must end with the losses and weights of one that nothing happened to, to the
    bit, and with a ledger that agrees with the order. JOB should be small: it runs once for every
    blow. Exit code 1 when something was lost.
    """
    import tempfile

    from orchestrator.bench.fault_injection import (
        FAULT_TARGETS,
        FaultOutcome,
        RunHarness,
        bench_fault_injection,
        draw_faults,
    )
    from orchestrator.cli.data import train_job_of
    from orchestrator.cli.output import print_json, print_table
    from orchestrator.text import format_bytes

    checked = train_job_of(job, overrides or [])
    victims = FAULT_TARGETS if nodes else FAULT_TARGETS[:2]
    rows: list[list[str]] = []

    def tell(struck: FaultOutcome) -> None:
        blow = struck.blow
        who = f"rank {blow.rank}" if blow.victim == "rank" else blow.victim
        same = ["yes" if held else "NO" for held in (struck.same_losses, struck.same_weights)]
        rows.append(
            [
                who,
                f"{blow.delay_s:.2f} s after step {blow.commit * checked.checkpoint.every}",
                str(struck.step),
                str(struck.resumed_at),
                "all done" if struck.recovery_s is None else f"{struck.recovery_s:.1f} s",
                *same,
                "yes" if struck.audited else "NO",
            ]
        )

    head = ["killed", "when", "saved", "went on", "again after", "losses", "weights", "audit"]
    with tempfile.TemporaryDirectory() as temporary:
        arena = RunHarness(checked, out or Path(temporary))
        try:
            found = bench_fault_injection(arena, draw_faults(checked, blows, seed, victims), tell)
        finally:
            if not json:
                print_table(head, rows)
    if json:
        print_json(found)
    else:
        print(
            f"{found['good']} of {found['blows']} lost nothing;"
            f" the next step came {found['recovery_s']:.1f} s after the blow (median)"
        )
        theory = found["checkpoint_over_plan"]
        print(
            f"a save held a step up for {1000 * found['saving_s']:.1f} ms,"
            f" {100 * found['saving_share']:.2f}% of all time at one in"
            f" {checked.checkpoint.every} steps; a checkpoint takes"
            f" {format_bytes(int(found['checkpoint_bytes']))}"
            + (f", {theory:.3f} of its theoretical size" if theory else "")
        )
    raise typer.Exit(0 if found["good"] == found["blows"] else 1)


app.command()(bench_tune.objectives)
app.command()(bench_tune.search)


@app.command()
def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model that acts: models:/NAME@alias, runs:/ID/model or its folder; default: a"
            " small one without training, whose speed is the same.",
        ),
    ] = None,
    candidates: Annotated[int, typer.Option("--candidates", min=2, help="Plans tried.")] = 300,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Times.")] = 30,
    horizon: Annotated[int, typer.Option("--horizon", min=1, help="Model steps of a plan.")] = 5,
    problems: Annotated[int, typer.Option("--problems", min=1, help="Decisions a round.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed rounds of each.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Time decisions of a planner, many at once and one at a time.

    A loop written as stable-worldmodel's solver and rollout takes turns with it: the same weights,
    candidates and cores; the same loop with our rollout; and that solver itself, where it is
    installed.
    """
    from orchestrator.bench.planning import bench_planning, load_or_make_model
    from orchestrator.cli.output import print_json, print_table

    found = bench_planning(
        load_or_make_model(model),
        candidates=candidates,
        iterations=iterations,
        horizon=horizon,
        problems=problems,
        rounds=rounds,
    )
    if json:
        print_json(found)
        return
    rows = [
        [who, f"{rate:.3g}", f"{1000 / rate:.4g}", f"{found['ours_over'].get(who, 1.0):.2f}",
         f"{found['cost'][who]:.4f}"]
        for who, rate in found["decisions_per_s"].items()
    ]  # fmt: skip
    print_table(["", "decisions/s", "ms", "ours over it", "cost of its plans"], rows, numbers=4)
    print(
        f"{found['candidates']} candidates, {found['iterations']} iterations, {found['horizon']}"
        f" model steps; {found['problems']} decisions a round, {found['rounds']} rounds,"
        f" {found['parameters']:,} parameters, {found['threads']} threads"
    )
    if not found["peer"]:
        print(
            "stable-worldmodel is not installed here: reference is a loop written as its solver and"
            " rollout"
        )
