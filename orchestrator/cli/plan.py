"""`orchestrator plan`: what a job needs, before anything is rented or started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from orchestrator.estimate import JobEstimate
    from orchestrator.job import TrainJob

Rows = list[tuple[str, str]]


def plan(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A train job or a pipeline.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Values in place of the file's."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="CLUSTER", help="A cluster profile, by name or file."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", help="A GPU (h200) or its memory in GiB (24): which ZeRO fits."),
    ] = None,
    clips: Annotated[
        int | None, typer.Option("--clips", min=1, help="Clips of the dataset, for the epochs.")
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option(
            "--mfu", min=1e-4, max=1, help="Share of the GPUs' peak; default: V-JEPA 2's, 0.13."
        ),
    ] = None,
    step_s: Annotated[
        float | None,
        typer.Option("--step-s", min=1e-6, help="Seconds of a step, measured, instead of --mfu."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what a job needs.

    The batch, tokens, parameters, FLOPs, memory by ZeRO stage and decoding; with --to also what
    fits the cluster, at every number of workers, and the time and cost. Pure arithmetic: nothing
    is started or asked. Exit code 2, after the plan, where the job does not fit the cluster.
    """
    from orchestrator.errors import RequestError
    from orchestrator.job import PipelineJob, TrainJob, load_job

    given = {"clips": clips, "gpu": gpu, "mfu": mfu, "step_s": step_s}
    checked = load_job(job, overrides or [])
    if isinstance(checked, PipelineJob):
        from orchestrator.cli.plan_pipeline import plan_pipeline

        plan_pipeline(
            checked,
            lambda one: _plan_one(one, to, json=False, **given),
            lambda one: _plain(one, to, **given),
            json=json,
        )
        return
    if not isinstance(checked, TrainJob):
        raise RequestError(
            f"a plan of kind '{checked.kind}'",
            where=job,
            hint="only train jobs, and those of a pipeline, have a plan",
        )
    _plan_one(checked, to, json=json, **given)


def _plan_one(job: TrainJob, to: str | None, *, json: bool, **given: Any) -> None:
    """Show one training's plan, on a cluster where one is named."""
    from orchestrator.estimate import estimate_job as make_plan

    if to is not None:
        _plan_on(job, to, json=json, **given)
        return
    result = make_plan(job, **given)
    if json:
        from orchestrator.cli.output import print_json

        print_json(result.to_dict())
        return
    _show(result)
    if result.memory:
        print()
        _memory(result, job)


def _plain(job: TrainJob, to: str | None, **given: Any) -> dict[str, Any]:
    """One training's plan as plain data.

    Raises:
        RequestError: it does not fit the cluster.
    """
    from orchestrator.cluster_profile import load_profile
    from orchestrator.errors import RequestError
    from orchestrator.estimate import estimate_job as make_plan
    from orchestrator.estimate import estimate_on_cluster

    if to is None:
        return make_plan(job, **given).to_dict()
    found = estimate_on_cluster(job, load_profile(to), **given)
    if found.problem:
        raise RequestError(found.problem.what, where=job.name, hint=found.problem.mend)
    return found.to_dict()


def _plan_on(job: TrainJob, to: str, *, json: bool, **given: Any) -> None:
    from orchestrator.cli.output import print_json
    from orchestrator.cli.plan_cluster import show_cluster
    from orchestrator.cluster_profile import load_profile
    from orchestrator.errors import RequestError
    from orchestrator.estimate import estimate_on_cluster

    profile = load_profile(to)
    found = estimate_on_cluster(job, profile, **given)
    if json:
        print_json(found.to_dict())
    else:
        _show(found.plan)
        show_cluster(found, job, profile)
    if found.problem:
        raise RequestError(found.problem.what, where=job.name, hint=found.problem.mend)


def _show(plan: JobEstimate) -> None:
    print(f"{plan.name}")
    for title, rows in (
        ("batch", _batch(plan)),
        ("clip", _clip(plan)),
        ("model", _model(plan)),
        ("data", _data(plan)),
    ):
        for i, (name, text) in enumerate(rows):
            print(f"{title if i == 0 else '':<8}{name:<12}{text}")


def _batch(plan: JobEstimate) -> Rows:
    b = plan.batch
    dealt = f"{b.global_batch:,} clips = {b.world:,} ranks x {b.micro} x {b.accum} accumulated"
    if b.padding:
        dealt += f" - {b.padding} rows of weight 0"
    rows = [("step", dealt)]
    if plan.feed.steps_per_epoch:
        rows.append(
            (
                "epoch",
                f"{plan.feed.steps_per_epoch:,.1f} steps; the job is {plan.feed.epochs:,.2f}"
                " epochs",
            )
        )
    return rows


def _clip(plan: JobEstimate) -> Rows:
    t, h, w = plan.tokens.grid
    rows = [("tokens", f"{plan.tokens.clip:,} = {t} x {h} x {w} (time, height, width)")]
    rows += [
        (f"mask {i}", f"{n_c:,} context, {n_t:,} targets")
        for i, (n_c, n_t) in enumerate(plan.tokens.masks)
    ]
    return rows + (_buckets(plan) if len(plan.buckets) > 1 else [])


def _buckets(plan: JobEstimate) -> Rows:
    """Shapes of clips, where there are several: a step is of one."""
    from orchestrator.text import format_number

    rows = []
    for one in plan.buckets:
        t, h, w = one.tokens.grid
        text = f"{one.share:.0%} of the steps: {one.tokens.clip:,} tokens = {t} x {h} x {w}"
        if one.flops is not None:
            text += f", {format_number(one.flops)} FLOPs a step"
        rows.append((f"{one.frames} x {one.size} px", text))
    return rows


def _model(plan: JobEstimate) -> Rows:
    from orchestrator.text import format_bytes, format_number

    if plan.parameters is None or plan.flops is None or plan.checkpoint_bytes is None:
        return [("", "a part is your own: what it costs is known when it is built")]
    p, f = plan.parameters, plan.flops
    shares = {
        "teacher": f.teacher_forward,
        "encoder": f.encoder_forward + f.encoder_backward,
        "predictor": f.predictor_forward + f.predictor_backward,
    }
    shares |= {"statistic": f.statistic} if f.statistic else {}
    split = ", ".join(
        f"{name} {100 * part / f.total:.0f}%" for name, part in shares.items() if part
    )
    teacher = f"teacher {format_number(p.teacher)}" if p.teacher else "no teacher"
    untold = "; without what reads an action, whose width only the data says" if p.untold else ""
    return [
        ("parameters", f"{format_number(p.trained)} trained: encoder {format_number(p.encoder)},"
         f" predictor {format_number(p.predictor)}; {teacher}{untold}"),
        ("FLOPs", f"{format_number(f.total)} a step: {split}; attention"
         f" {100 * f.attention / f.total:.0f}% of it"),
        ("checkpoint", format_bytes(plan.checkpoint_bytes)),
    ]  # fmt: skip


def _data(plan: JobEstimate) -> Rows:
    from orchestrator.text import format_bytes, format_duration, format_number

    feed = plan.feed
    whole = f"; the dataset about {format_bytes(feed.dataset_bytes)}" if feed.dataset_bytes else ""
    core_seconds = format_number(plan.batch.global_batch / feed.core_clips_per_s)
    rows = [
        ("step reads", f"about {format_bytes(feed.step_bytes)} of encoded video{whole}"),
        ("a core", f"decodes about {format_number(feed.core_clips_per_s)} clips/s"
         f" ({core_seconds} core-seconds a step)"),
    ]  # fmt: skip
    if plan.step_s and plan.clips_per_s:
        rows.append(
            (
                "decoding",
                f"{plan.clips_per_s:,.1f} clips/s at {format_duration(plan.step_s)} a step:"
                f" about {plan.decode_cores} cores",
            )
        )
    return rows


def _memory(plan: JobEstimate, job: TrainJob) -> None:
    from orchestrator.cli.plan_memory import print_memory_table
    from orchestrator.text import format_bytes

    rows = [(m, f"ZeRO {m.stage}{' (the job)' if m.stage == job.scale.zero else ''}")
            for m in plan.memory]  # fmt: skip
    print_memory_table(f"a rank of {plan.batch.world:,}", rows)
    if plan.gpu:
        print(f"\n{plan.gpu.name}, {format_bytes(plan.gpu.memory)}: {_advice(plan, job)}")


def _advice(plan: JobEstimate, job: TrainJob) -> str:
    from orchestrator.text import format_bytes

    found = plan.recommended
    if found is None:
        return "not even one clip fits; take more workers or a smaller model"
    changes = " ".join(found.to_overrides(job)) or "the job as it is"
    return f"{changes} fits with {format_bytes(found.memory.device)}"
