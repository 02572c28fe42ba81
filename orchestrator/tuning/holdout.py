"""Videos that no trial is trained on: what the objective and the gates look at.

Simulated videos are drawn anew by another seed. Of any other source a share of the videos is left
out of every training: the sweep's folder then holds two indexes over the same tars, `train-N` of
each source and `held-N`, and trials are trained on the former.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.loader.eval_clips import EvalDecodeConfig, center_crop
from orchestrator.data.packing.prepare import open_datasets, sources_of
from orchestrator.data.packing.subset import split_fraction, write_subset
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import DataError, RequestError
from orchestrator.features.clip_annotations import ClipAnnotations, read_annotations
from orchestrator.job import TrainJob, TuneJob, WeightedSource
from orchestrator.job.loading.search_space import train_split_path
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tuning.trial_store import SWEEP_FILE

MIN_HOLDOUT_CLIPS = 16
"""Held-out clips below which nothing can be compared."""

HOLDOUT_PREFIX, HOLDOUT_FILE = "held", "held.json"


@dataclass(frozen=True)
class HoldoutClip:
    """A held-out clip."""

    video: str
    pixels: np.ndarray
    """uint8 [T, size, size, 3]."""

    annotations: ClipAnnotations


def prepare_holdout(
    job: TuneJob, folder: Storage, progress: Progress, *, local: bool = False
) -> None:
    """Split the job's data, or open what it is judged on; done again, it finds what was done.

    Raises:
        RequestError: too few videos are held out, or one of them is trained on.
        JobFailed: packing stopped; what is committed stays.
    """
    facts = {
        "of": [one.model_dump(mode="json") for one in sources_of(job.train)],
        "source": job.objective.source,
        "share": job.objective.holdout_fraction,
        "seed": job.objective.seed,
    }
    if folder.exists(HOLDOUT_FILE):
        # What a sweep that was begun is judged on stays; another job is refused by its name.
        if folder.exists(SWEEP_FILE) or folder.read_json(HOLDOUT_FILE)["facts"] == facts:
            return
        for name in folder.folders():
            folder.delete_tree(name)
    span, datasets = (
        job.train.data.default_clip_spec.span_s,
        Storage(job.storage).subfolder("datasets"),
    )
    trained = sources_of(job.train)
    indexes, _ = open_datasets(trained, job.train.data, span, datasets, progress, local)
    if job.objective.source is None:
        held = _split(job, indexes, folder)
    else:
        other = (WeightedSource(uri=job.objective.source),)
        held, _ = open_datasets(other, job.train.data, span, datasets, progress, local)
        _check_disjoint(held, indexes, job.objective.source)
    found = sum(1 for _ in _long_enough(held, span))
    if found < MIN_HOLDOUT_CLIPS:
        raise RequestError(
            f"{found} clips are held out, {MIN_HOLDOUT_CLIPS} are the fewest that can be compared",
            where="objective.holdout_fraction"
            if job.objective.source is None
            else "objective.source",
            hint="raise objective.holdout_fraction, or name more video as objective.source",
        )
    folder.write_json(HOLDOUT_FILE, {"facts": facts, "indexes": [index.uri for index in held]})


def load_holdout_clips(job: TuneJob, train: TrainJob) -> list[HoldoutClip]:
    """The clips that a trial of `train` is judged on, as it sees video: one of each segment,
    the same videos for every trial: those first that are to be scored, then as many that a
    winner can be scored on, then those that a probe is fitted to.

    Raises:
        RequestError: too few can be used.
    """
    objective, data = job.objective, train.data
    folder = Storage(job.storage).subfolder("sweeps", job.name)
    indexes = [DatasetIndex.open(uri) for uri in folder.read_json(HOLDOUT_FILE)["indexes"]]
    recipe = EvalDecodeConfig(data.frames, data.fps, data.size, clips_per_segment=1)
    chosen = heapq.nsmallest(
        objective.fit_videos + 2 * objective.scored_videos,
        _long_enough(indexes, recipe.span_s),
        key=lambda one: (split_fraction(objective.seed, one[2]["source"]), one[2]["key"]),
    )
    clips = []
    for index, shard, row in chosen:
        try:
            clips.append(_read(index, shard, row, recipe))
        except DataError:
            continue  # as in training: a bad clip is left out, for every trial alike
    if len(clips) < MIN_HOLDOUT_CLIPS:
        raise RequestError(
            f"{len(clips)} of {len(chosen)} held-out clips can be used,"
            f" {MIN_HOLDOUT_CLIPS} are needed",
            where=folder.root,
            hint="raise objective.holdout_fraction, or name more video as objective.source",
        )
    return clips


def _split(job: TuneJob, indexes: list[DatasetIndex], folder: Storage) -> list[DatasetIndex]:
    """Indexes of what is held out; those of what is left stand beside them."""
    seed, share = job.objective.seed, job.objective.holdout_fraction

    def is_held(row: Any) -> bool:
        return split_fraction(seed, row["source"]) < share

    facts, held = {"share": share, "seed": seed}, []
    for number, index in enumerate(indexes):
        left = Storage(train_split_path(job, number))
        try:
            write_subset(index, lambda row: not is_held(row), left, facts)
            held.append(
                write_subset(index, is_held, folder.subfolder(f"{HOLDOUT_PREFIX}-{number}"), facts)
            )
        except DataError:
            raise RequestError(
                f"{index.num_clips} clips are too few to hold {share:g} of the videos out",
                where=index.uri,
                hint="raise objective.holdout_fraction, or name other video as objective.source",
            ) from None
    return held


def _check_disjoint(held: list[DatasetIndex], trained: list[DatasetIndex], where: str) -> None:
    """No payload may be in both; only those of the held-out side are kept in memory."""
    ours = {row["sha256"] for index in held for _, row in _rows(index)}
    for index in trained:
        for _, row in _rows(index):
            if row["sha256"] in ours:
                raise RequestError(
                    f"objective.source has videos that are trained on: {row['key']}",
                    where=where,
                    hint="name other videos, or leave objective.source out: a share of the"
                    " training's own is then held out",
                )


def _rows(index: DatasetIndex) -> Iterator[tuple[int, dict[str, Any]]]:
    for shard in range(index.num_shards):
        for row in index.shard_rows(shard).to_pylist():
            yield shard, row


def _long_enough(
    indexes: list[DatasetIndex], span: float
) -> Iterator[tuple[DatasetIndex, int, dict[str, Any]]]:
    for index in indexes:
        for shard, row in _rows(index):
            if row["duration_s"] > span:
                yield index, shard, row


def _read(
    index: DatasetIndex, shard: int, row: dict[str, Any], recipe: EvalDecodeConfig
) -> HoldoutClip:
    payload = index.read_bytes(shard, row["offset"], row["bytes"], row["sha256"])
    beside = {
        extra["name"]: index.read_bytes(shard, extra["offset"], extra["bytes"])
        for extra in row.get("extras") or []
        if extra["name"] in ("json", "states.npy")
    }
    times = recipe.frame_times(float(recipe.start_times(row["duration_s"])[0]))
    pixels = np.empty(recipe.shapes[0], np.uint8)
    decode_clip(payload, times, size=recipe.size, choose_crop=center_crop, out=pixels)
    facts = beside.get("json"), beside.get("states.npy"), row["frames"], row["fps"]
    return HoldoutClip(row["source"], pixels, read_annotations(*facts, times))
