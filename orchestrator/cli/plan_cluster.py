"""What `orchestrator plan --to CLUSTER` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.cli.output import print_table
from orchestrator.cli.plan_memory import print_memory_table
from orchestrator.text import format_bytes, format_duration

if TYPE_CHECKING:
    from orchestrator.cluster_profile import Profile
    from orchestrator.estimate import ClusterEstimate
    from orchestrator.estimate.cluster_estimate import WorldSizeEstimate
    from orchestrator.job import TrainJob

Rows = list[tuple[str, str]]

_ROWS = 12
"""Sizes shown of an elastic job that has more."""


def show_cluster(found: ClusterEstimate, job: TrainJob, profile: Profile) -> None:
    """The cluster, the memory, every size, and what follows from the largest."""
    for i, line in enumerate(_machines(profile)):
        print(f"{'cluster' if i == 0 else '':<8}{line}")
    for i, (name, text) in enumerate(_needs(found, job)):
        print(f"{'there' if i == 0 else '':<8}{name:<12}{text}")
    if found.memory:
        print()
        _memory(found, job)
    print()
    _sizes(found, job)
    for note in found.notes:
        print(f"- {note}")


def _machines(profile: Profile) -> list[str]:
    lines = []
    for name, group in profile.nodes.items():
        count = (
            f"{group.max_nodes:,}"
            if group.max_nodes == group.min
            else f"{group.min:,} to {group.max_nodes:,}"
        )
        parts = [f"{group.cpus} cores", format_bytes(group.memory)]
        if group.gpus:
            parts.insert(0, f"{group.gpus} {group.gpu or 'GPU (unnamed)'}")
        parts += [group.instance] if group.instance else []
        parts += [f"{group.price:,.2f} an hour"] if group.price is not None else []
        parts += ["spot"] if group.spot else []
        lines.append(f"{name:<12}{count} x {', '.join(parts)}")
    return lines


def _needs(found: ClusterEstimate, job: TrainJob) -> Rows:
    largest = found.largest
    room = f"{found.slots:,} workers at most"
    if found.slots_at_once < found.slots:
        room += f", {found.slots_at_once:,} on the nodes that are always there"
    nodes = " + ".join(f"{count:,} {name}" for name, count in largest.hosts.used.items())
    rows = [("room", f"{room}; {largest.batch.world:,} stand on {nodes or 'nothing'}")]
    if largest.decode_cores is not None and largest.compute_s:
        rate = largest.batch.padded / largest.compute_s
        rows.append(("decoding", _decoding(found, largest, rate)))
    if found.saving:
        rows.append(("checkpoints", _saving(found, largest, job)))
    if largest.step_s and largest.hours:
        rows.append(("time", _time(largest, job)))
    return rows


def _decoding(found: ClusterEstimate, largest: WorldSizeEstimate, rate: float) -> str:
    enough = "enough"
    if not found.on_gpus:
        enough = "shared with the steps"
    elif largest.step_s and largest.compute_s and largest.step_s > largest.compute_s:
        slower = largest.step_s / largest.compute_s
        enough = f"too few, steps wait and take {slower:.2g} times as long"
    return f"{rate:,.0f} clips/s need about {largest.decode_cores:,} of {largest.cores:,} cores:" \
           f" {enough}"  # fmt: skip


def _saving(found: ClusterEstimate, largest: WorldSizeEstimate, job: TrainJob) -> str:
    saving = found.saving
    assert saving is not None
    text = (
        f"{format_bytes(saving.bytes)} ({format_bytes(saving.bytes / largest.batch.world)} a rank)"
    )
    text += f", one in {saving.interval_steps:,.0f} steps"
    if largest.step_s:
        text += f" = {format_duration(saving.interval_steps * largest.step_s)}"
    text += f"; {saving.kept} kept, {format_bytes(saving.most_bytes)} in the storage at most"
    if largest.step_s:
        text += f"; a crash costs {format_duration(saving.mean_lost_s(largest.step_s))} on average"
    return text


def _time(largest: WorldSizeEstimate, job: TrainJob) -> str:
    assert largest.step_s is not None
    assert largest.hours is not None
    text = f"{format_duration(largest.step_s)} a step, {job.optim.steps:,} steps:"
    text += f" {format_duration(3600 * largest.hours)}"
    if largest.hours >= 48:
        text += f" = {largest.hours / 24:,.1f} days"
    if largest.gpu_hours is not None:
        text += f", {largest.gpu_hours:,.0f} GPU-hours"
    if largest.cost is not None:
        text += f", {largest.cost:,.0f} by the profile's prices"
    return text


def _memory(found: ClusterEstimate, job: TrainJob) -> None:
    """One row for each ZeRO stage; beside it what it is with the optimizer's state moved away."""
    has = found.largest.hosts.memory
    ram = found.largest.hosts.ram if found.on_gpus else None
    rows, fits = [], []
    for m in found.memory:
        if m.offload and not found.on_gpus:
            continue
        mine = m.stage == job.scale.zero and m.offload == job.scale.offload
        offload = " + offload" if m.offload else ""
        rows.append((m, f"ZeRO {m.stage}{offload}{' (the job)' if mine else ''}"))
        fits.append("?" if has is None else "yes" if m.fits(has, ram) else "no")
    print_memory_table(f"a rank of {found.largest.batch.world:,}", rows, fits)
    if has is not None:
        what = found.gpu.name if found.gpu else "a worker's share of its node"
        print(f"{what}: {format_bytes(has)}; {_advice(found, job)}")


def _advice(found: ClusterEstimate, job: TrainJob) -> str:
    fits = found.largest.fits
    if fits is None:
        return "not even one clip fits"
    changes = " ".join(fits.to_overrides(job)) or "the job as it is"
    return f"{changes} fits with {format_bytes(fits.memory.device)}"


def _sizes(found: ClusterEstimate, job: TrainJob) -> None:
    head = ["workers", "a step", "weight 0", "fits with", "s/step", "clips/s", "decode cores",
            "hours", "GPU-hours", "cost"]  # fmt: skip
    rows = [_size_row(one, job) for one in _chosen(found.sizes)]
    print_table(head, rows, numbers=len(head) - 1)


def _chosen(sizes: Sequence[WorldSizeEstimate]) -> list[WorldSizeEstimate]:
    """All sizes, or of many: the ends, and between them those that divide the batch best."""
    if len(sizes) <= _ROWS:
        return list(sizes)
    even = [one for one in sizes[1:-1] if not one.batch.padding]
    step = max(1, -(-len(even) // (_ROWS - 2)))
    return [sizes[0], *even[::step], sizes[-1]]


def _size_row(one: WorldSizeEstimate, job: TrainJob) -> list[str]:
    batch, unknown = one.batch, "?"
    fits = unknown
    if one.fits:
        offload = " + offload" if one.fits.memory.offload else ""
        fits = f"ZeRO {one.fits.memory.stage}{offload}"
        fits += "" if one.fits.micro_batch == batch.micro else f", micro {one.fits.micro_batch}"
        again = one.fits.activation_checkpointing and not job.scale.activation_checkpointing
        fits += ", recomputed" if again else ""
    elif one.hosts.memory is not None:
        fits = "nothing"
    rate = batch.global_batch / one.step_s if one.step_s else None
    return [
        f"{batch.world:,}",
        f"{batch.micro} x {batch.accum}",
        str(batch.padding),
        fits,
        f"{one.step_s:.3g}" if one.step_s else unknown,
        f"{rate:,.0f}" if rate else unknown,
        f"{one.decode_cores:,}" if one.decode_cores is not None else unknown,
        f"{one.hours:,.1f}" if one.hours is not None else unknown,
        f"{one.gpu_hours:,.0f}" if one.gpu_hours is not None else unknown,
        f"{one.cost:,.0f}" if one.cost is not None else unknown,
    ]
