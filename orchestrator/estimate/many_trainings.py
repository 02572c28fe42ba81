"""What sweeps and studies need: many trainings, some of them at the same time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.cluster_profile import Profile
from orchestrator.estimate.cluster_estimate import ClusterEstimate, Problem, estimate_on_cluster
from orchestrator.estimate.job_estimate import JobEstimate, estimate_job
from orchestrator.estimate.kinds import EstimateOptions, KindEstimate
from orchestrator.estimate.placement import WorkerPlacement
from orchestrator.job import TrainJob
from orchestrator.outcome import Row
from orchestrator.text import format_bytes, format_duration, format_number


@dataclass(frozen=True)
class TrainingGroup:
    """Trainings that need the same."""

    label: str
    count: int
    job: TrainJob


@dataclass(frozen=True)
class _GroupEstimate:
    group: TrainingGroup
    plan: JobEstimate
    cluster: ClusterEstimate | None

    @property
    def hours(self) -> float | None:
        """Of one training."""
        if self.cluster is not None:
            return self.cluster.largest.hours
        if self.plan.step_s is None:
            return None
        return self.plan.step_s * self.group.job.optim.steps / 3600

    @property
    def memory(self) -> float | None:
        """Bytes of one rank's device, at the job's own ZeRO stage."""
        scale = self.group.job.scale
        for one in self.cluster.memory if self.cluster else self.plan.memory:
            if (one.stage, one.offload) == (scale.zero, scale.offload):
                return one.device
        return None


def estimate_many_trainings(
    kind: str,
    name: str,
    groups: Sequence[TrainingGroup],
    profile: Profile | None,
    options: EstimateOptions,
    *,
    at_once: int = 1,
    rows: Sequence[Row] = (),
    unknown: Sequence[str] = (),
) -> KindEstimate:
    """Steps, memory, time and cost of all trainings, when none of them ends early.

    Args:
        at_once: trainings that run at the same time.
        rows: what is said first, about the job as a whole.
        unknown: what else is not known.

    Raises:
        RequestError: the GPU is not known.
    """
    each = [_estimate_group(group, profile, options) for group in groups]
    figures = {
        "trainings": sum(one.group.count for one in each),
        "steps": sum(one.group.count * one.group.job.optim.steps for one in each),
        "groups": [_group_figures(one) for one in each],
        "at_once": at_once,
        **_totals(each, at_once, profile),
    }
    return KindEstimate(
        kind=kind,
        name=name,
        rows=(*rows, *(_group_row(one) for one in each), *_time_rows(figures)),
        figures=figures,
        unknown=(*unknown, *_unknown(each, figures, profile)),
        problem=_problem(each),
    )


def _estimate_group(
    group: TrainingGroup, profile: Profile | None, options: EstimateOptions
) -> _GroupEstimate:
    if profile is None:
        return _GroupEstimate(group, estimate_job(group.job, **vars(options)), None)
    found = estimate_on_cluster(group.job, profile, **vars(options))
    return _GroupEstimate(group, found.plan, found)


def _group_figures(one: _GroupEstimate) -> dict[str, Any]:
    return {
        "label": one.group.label,
        "count": one.group.count,
        "workers": one.plan.batch.world,
        "steps": one.group.job.optim.steps,
        "clips": one.group.job.optim.steps * one.group.job.scale.global_batch,
        "memory": one.memory,
        "step_flops": one.plan.step_flops,
        "decode_cores": one.plan.decode_cores,
        "hours": one.hours,
    }


def _totals(
    each: Sequence[_GroupEstimate], at_once: int, profile: Profile | None
) -> dict[str, float | None]:
    """Hours that pass, GPU-hours and cost of all trainings; None where one is not known."""
    rounds = [math.ceil(one.group.count / at_once) for one in each]
    sizes = [(one.group.count, one.cluster.largest) for one in each if one.cluster]
    costs = [_hourly_cost(one, at_once, profile) for one in each]
    spent = [
        (count, one.hours * cost if one.hours is not None and cost is not None else None)
        for count, one, cost in zip(rounds, each, costs, strict=True)
    ]
    return {
        "hours": _sum([(count, one.hours) for count, one in zip(rounds, each, strict=True)]),
        "gpu_hours": _sum([(count, size.gpu_hours) for count, size in sizes]),
        "cost": _sum(spent),
    }


def _hourly_cost(one: _GroupEstimate, at_once: int, profile: Profile | None) -> float | None:
    """Price of an hour of the nodes that trainings of a group take together."""
    if profile is None:
        return None
    place = WorkerPlacement(profile, one.group.job.scale)
    together = min(at_once, one.group.count) * one.plan.batch.world
    return place.hourly_cost(place.allocate(together))


def _sum(parts: Sequence[tuple[int, float | None]]) -> float | None:
    if not parts or any(value is None for _, value in parts):
        return None
    return sum(count * (value or 0.0) for count, value in parts)


def _group_row(one: _GroupEstimate) -> Row:
    job, batch = one.group.job, one.plan.batch
    text = f"{one.group.count:,} x {job.optim.steps:,} steps of {batch.global_batch:,} clips"
    text += f" on {batch.world:,} worker{'' if batch.world == 1 else 's'}"
    if one.memory is not None:
        text += f", {format_bytes(one.memory)} a rank"
    if one.plan.step_flops is not None:
        text += f", {format_number(one.plan.step_flops)} FLOPs a step"
    if one.hours is not None:
        text += f", {format_duration(3600 * one.hours)} each"
    return one.group.label, text


def _time_rows(figures: dict[str, Any]) -> list[Row]:
    hours, at_once = figures["hours"], min(figures["at_once"], figures["trainings"])
    if hours is None:
        return []
    order = f"{at_once:,} at a time" if at_once > 1 else "one after the other"
    text = f"{format_duration(3600 * hours)}, {order}"
    if figures["gpu_hours"] is not None:
        text += f"; {figures['gpu_hours']:,.0f} GPU-hours"
    if figures["cost"] is not None:
        text += f", {figures['cost']:,.0f} by the profile's prices"
    return [("time", f"at most {text}")]


def _unknown(
    each: Sequence[_GroupEstimate], figures: dict[str, Any], profile: Profile | None
) -> list[str]:
    lines = [
        f"memory and FLOPs of {one.group.label}: a part of it is your own"
        for one in each
        if one.plan.parameters is None
    ]
    if figures["hours"] is None:
        lines.append(
            "time: measure a step with `orchestrator bench step` and give it as --step-s"
            + ("" if profile else ", or name a cluster with --to or a GPU with --gpu")
        )
    if figures["cost"] is None:
        why = "it takes the time and the price of every node" if profile else "name a cluster"
        lines.append(f"cost: {why}{'' if profile else ' with --to'}")
    return lines


def _problem(each: Sequence[_GroupEstimate]) -> Problem | None:
    return next((one.cluster.problem for one in each if one.cluster and one.cluster.problem), None)
