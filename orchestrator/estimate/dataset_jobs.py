"""What packing and embedding a dataset need: clips, cores, bytes, seconds of decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.cluster_profile import Profile
from orchestrator.estimate.input_cost import clips_named, core_clips_per_s, segment_bytes
from orchestrator.estimate.kinds import (
    EstimateOptions,
    KindEstimate,
    cluster_cores,
    cluster_hourly_price,
)
from orchestrator.job import EmbedJob, PackJob
from orchestrator.outcome import Row
from orchestrator.text import format_bytes, format_duration, format_number

_COUNT_HINT = "only listing the sources says; give it as --clips"


def estimate_pack(job: PackJob, profile: Profile | None, options: EstimateOptions) -> KindEstimate:
    """Work units, tasks at a time and bytes of a packing; no rate of encoding is assumed."""
    uris = [job.source or "", *(one.uri for one in job.sources)]
    clips = options.clips or clips_named(uris)
    units = math.ceil(clips / job.videos_per_unit) if clips else None
    size = clips * segment_bytes(job.encode) if clips else None
    rows: list[Row] = [("task", f"{job.cpus:g} cores, {job.videos_per_unit:,} videos")]
    unknown = []
    if clips and units and size:
        rows.append(("clips", f"{clips:,}, in {units:,} work units or more"))
        rows.append(("dataset", f"at most about {format_bytes(size)}"))
    else:
        unknown.append(f"clips and bytes of the dataset: {_COUNT_HINT}")
    at_once = int(cluster_cores(profile) // job.cpus) if profile else None
    if at_once is not None:
        rows.append(("cluster", f"{at_once:,} tasks at a time"))
    unknown.append("time, cost and memory of a task: they depend on the codecs and sizes that the"
                   " source's videos have")  # fmt: skip
    figures = {
        "clips": clips,
        "units": units,
        "dataset_bytes": size,
        "cpus_per_task": job.cpus,
        "tasks_at_once": at_once,
        "hours": None,
        "cost": None,
    }
    return KindEstimate(job.kind, job.name, tuple(rows), figures, tuple(unknown))


def estimate_embedding(
    job: EmbedJob, profile: Profile | None, options: EstimateOptions
) -> KindEstimate:
    """Clips and their decoding, below which an embedding cannot stay; the model is not opened."""
    segments = options.clips or clips_named([job.data.source or "", *_uris(job)])
    clips = segments * job.data.clips_per_segment if segments else None
    core_s = _decode_core_seconds(job, clips)
    cores = cluster_cores(profile) if profile else None
    hours = core_s / cores / 3600 if core_s and cores else None
    price = cluster_hourly_price(profile) if profile else None
    cost = hours * price if hours is not None and price is not None else None
    rows: list[Row] = [("batch", f"{job.scale.batch:,} clips a forward")]
    actors = f"{job.scale.workers:,}" if job.scale.workers else "one for each GPU, else core group"
    rows.append(("actors", f"{actors}; {job.scale.cpus:g} cores each"))
    unknown = []
    if clips:
        rows.append(("clips", f"{clips:,}"))
    else:
        unknown.append(f"clips: {_COUNT_HINT}")
    if core_s is not None:
        rows.append(("decoding", _decoding_text(core_s, hours, cores, cost)))
    elif clips:
        unknown.append("decoding: frames and fps are the model's; give data.frames and data.fps")
    unknown.append("memory, time of the forwards, and bytes of the features: the model is named by"
                   " its URI, its size is known once it is loaded")  # fmt: skip
    figures = {
        "clips": clips,
        "batch": job.scale.batch,
        "workers": job.scale.workers,
        "cpus_per_worker": job.scale.cpus,
        "decode_core_s": core_s,
        "least_hours": hours,
        "least_cost": cost,
        "memory": None,
    }
    return KindEstimate(job.kind, job.name, tuple(rows), figures, tuple(unknown))


def _uris(job: EmbedJob) -> Sequence[str]:
    return [source.uri for source in job.data.sources]


def _decode_core_seconds(job: EmbedJob, clips: int | None) -> float | None:
    if clips is None or job.data.frames is None or job.data.fps is None:
        return None
    encode = job.data.encode
    clip_s = min(job.data.frames / job.data.fps, encode.segment)
    return clips / core_clips_per_s(clip_s, encode.short_side)


def _decoding_text(
    core_s: float, hours: float | None, cores: int | None, cost: float | None
) -> str:
    text = f"about {format_number(round(core_s, 1))} core-seconds"
    if hours is not None:
        text += f": at least {format_duration(3600 * hours)} on {cores:,} cores"
    if cost is not None:
        text += f", {cost:,.2f} by the profile's prices"
    return text
