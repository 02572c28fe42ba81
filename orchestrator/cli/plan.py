"""`orchestrator plan`: what a job needs, before anything is rented or started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from orchestrator.cluster_profile import Profile
    from orchestrator.estimate import JobEstimate
    from orchestrator.estimate.cluster_estimate import Problem
    from orchestrator.estimate.kinds import Estimate, EstimateOptions, KindEstimate
    from orchestrator.job import Job, PipelineJob, TrainJob

Rows = list[tuple[str, str]]


def plan(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file (YAML).")],
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

    Of a training the batch, tokens, parameters, FLOPs, memory by ZeRO stage and decoding; of a
    sweep or a study its trainings; of other kinds what can be counted. With --to also what fits
    the cluster, and the time and cost. Pure arithmetic: nothing is started or asked, and what is
    not known is said to be unknown. Exit code 2, after the plan, where the job does not fit.
    """
    from orchestrator.cluster_profile import load_profile
    from orchestrator.errors import RequestError
    from orchestrator.estimate.kinds import EstimateOptions
    from orchestrator.job import load_job

    options = EstimateOptions(clips=clips, gpu=gpu, mfu=mfu, step_s=step_s)
    checked = load_job(job, overrides or [])
    profile = load_profile(to) if to is not None else None
    if checked.stage_jobs():
        from orchestrator.cli.plan_pipeline import plan_pipeline

        plan_pipeline(
            cast("PipelineJob", checked),
            lambda one: _show_estimate(one, _estimate(one, profile, options), profile),
            lambda one: _plain(one, _estimate(one, profile, options)),
            json=json,
        )
        return
    found = _estimate(checked, profile, options)
    if found is None:
        raise RequestError(
            f"a job of kind '{checked.kind}' has no plan",
            where=job,
            hint="it takes no more than a look at the registry",
        )
    if json:
        from orchestrator.cli.output import print_json

        print_json(found.to_dict())
        _refuse_problem(checked, found)
    else:
        _show_estimate(checked, found, profile)


def _estimate(job: Job, profile: Profile | None, options: EstimateOptions) -> Estimate | None:
    from orchestrator.kinds import kind_named

    return kind_named(job.kind).estimate(job, profile, options)


def _plain(job: Job, found: Estimate | None) -> dict[str, Any] | None:
    """The estimate as plain data.

    Raises:
        RequestError: the job does not fit the cluster.
    """
    if found is None:
        return None
    _refuse_problem(job, found)
    return found.to_dict()


def _refuse_problem(job: Job, found: Estimate) -> None:
    from orchestrator.errors import RequestError

    problem: Problem | None = getattr(found, "problem", None)
    if problem:
        raise RequestError(problem.what, where=job.name, hint=problem.mend)


def _show_estimate(job: Job, found: Estimate | None, profile: Profile | None) -> None:
    """Print an estimate of any shape.

    Raises:
        RequestError: after it is shown: the job does not fit the cluster.
    """
    from orchestrator.estimate import ClusterEstimate, JobEstimate
    from orchestrator.estimate.kinds import KindEstimate

    if isinstance(found, KindEstimate):
        _show_rows(found)
    elif isinstance(found, JobEstimate) and job.training is not None:
        _show(found)
        if found.memory:
            print()
            _memory(found, job.training)
    elif isinstance(found, ClusterEstimate) and job.training is not None and profile is not None:
        from orchestrator.cli.plan_cluster import show_cluster

        _show(found.plan)
        show_cluster(found, job.training, profile)
    if found is not None:
        _refuse_problem(job, found)


def _show_rows(found: KindEstimate) -> None:
    print(f"{found.name}")
    for name, text in found.rows:
        print(f"  {name:<12}{text}")
    for line in found.unknown:
        print(f"- not known: {line}")


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
