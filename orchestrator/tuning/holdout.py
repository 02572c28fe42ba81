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
from orchestrator.data.loader.eval_clips import FixedRecipe, centred_square
from orchestrator.data.packing.prepare import open_datasets, wanted_sources
from orchestrator.data.packing.subset import mark, some_clips
from orchestrator.data.store.index import Index
from orchestrator.errors import DataError, RequestError
from orchestrator.features.clip_annotations import Notes, notes_of
from orchestrator.job import TrainJob, TuneJob, WeightedSource
from orchestrator.job.search_space import training_side
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tuning.trial_store import SHARED

FEWEST = 16
"""Held-out clips below which nothing can be compared."""

HELD, RECORD = "held", "held.json"


@dataclass(frozen=True)
class Clip:
    """A held-out clip."""

    video: str
    pixels: np.ndarray
    """uint8 [T, size, size, 3]."""

    notes: Notes


def hold_out(job: TuneJob, folder: Storage, progress: Progress, *, local: bool = False) -> None:
    """Split the job's data, or open what it is judged on; done again, it finds what was done.

    Raises:
        RequestError: too few videos are held out, or one of them is trained on.
        JobFailed: packing stopped; what is committed stays.
    """
    facts = {
        "of": [one.model_dump(mode="json") for one in wanted_sources(job.train)],
        **job.objective.model_dump(mode="json", include={"source", "share", "seed"}),
    }
    if folder.exists(RECORD):
        # What a sweep that was begun is judged on stays; another job is refused by its name.
        if folder.exists(SHARED) or folder.read_json(RECORD)["facts"] == facts:
            return
        for name in folder.folders():
            folder.delete_tree(name)
    span, datasets = job.train.data.own.span, Storage(job.storage).sub("datasets")
    trained = wanted_sources(job.train)
    indexes, _ = open_datasets(trained, job.train.data, span, datasets, progress, local)
    if job.objective.source is None:
        held = _split(job, indexes, folder)
    else:
        other = (WeightedSource(uri=job.objective.source),)
        held, _ = open_datasets(other, job.train.data, span, datasets, progress, local)
        _refuse_trained_on(held, indexes, job.objective.source)
    found = sum(1 for _ in _long_enough(held, span))
    if found < FEWEST:
        raise RequestError(
            f"{found} clips are held out, {FEWEST} are the fewest that can be compared",
            where="objective.share" if job.objective.source is None else "objective.source",
            mend="raise objective.share, or name more video as objective.source",
        )
    folder.write_json(RECORD, {"facts": facts, "indexes": [index.uri for index in held]})


def held_clips(job: TuneJob, train: TrainJob) -> list[Clip]:
    """The clips that a trial of `train` is judged on, as it sees video: one of each segment,
    the same videos for every trial: those first that are to be scored, then as many that a
    winner can be scored on, then those that a probe is fitted to.

    Raises:
        RequestError: too few can be used.
    """
    objective, data = job.objective, train.data
    folder = Storage(job.storage).sub("sweeps", job.name)
    indexes = [Index.open(uri) for uri in folder.read_json(RECORD)["indexes"]]
    recipe = FixedRecipe(data.frames, data.fps, data.size, clips=1)
    chosen = heapq.nsmallest(
        objective.fit + 2 * objective.score,
        _long_enough(indexes, recipe.span),
        key=lambda one: (mark(objective.seed, one[2]["source"]), one[2]["key"]),
    )
    clips = []
    for index, shard, row in chosen:
        try:
            clips.append(_read(index, shard, row, recipe))
        except DataError:
            continue  # as in training: a bad clip is left out, for every trial alike
    if len(clips) < FEWEST:
        raise RequestError(
            f"{len(clips)} of {len(chosen)} held-out clips can be used, {FEWEST} are needed",
            where=folder.root,
            mend="raise objective.share, or name more video as objective.source",
        )
    return clips


def _split(job: TuneJob, indexes: list[Index], folder: Storage) -> list[Index]:
    """Indexes of what is held out; those of what is left stand beside them."""
    seed, share = job.objective.seed, job.objective.share

    def is_held(row: Any) -> bool:
        return mark(seed, row["source"]) < share

    facts, held = {"share": share, "seed": seed}, []
    for number, index in enumerate(indexes):
        left = Storage(training_side(job, number))
        try:
            some_clips(index, lambda row: not is_held(row), left, facts)
            held.append(some_clips(index, is_held, folder.sub(f"{HELD}-{number}"), facts))
        except DataError:
            raise RequestError(
                f"{index.clips} clips are too few to hold {share:g} of the videos out",
                where=index.uri,
                mend="raise objective.share, or name other video as objective.source",
            ) from None
    return held


def _refuse_trained_on(held: list[Index], trained: list[Index], where: str) -> None:
    """No payload may be in both; only those of the held-out side are kept in memory."""
    ours = {row["sha256"] for index in held for _, row in _rows(index)}
    for index in trained:
        for _, row in _rows(index):
            if row["sha256"] in ours:
                raise RequestError(
                    f"objective.source has videos that are trained on: {row['key']}",
                    where=where,
                    mend="name other videos, or leave objective.source out: a share of the"
                    " training's own is then held out",
                )


def _rows(index: Index) -> Iterator[tuple[int, dict[str, Any]]]:
    for shard in range(index.shards):
        for row in index.rows(shard).to_pylist():
            yield shard, row


def _long_enough(indexes: list[Index], span: float) -> Iterator[tuple[Index, int, dict[str, Any]]]:
    for index in indexes:
        for shard, row in _rows(index):
            if row["duration_s"] > span:
                yield index, shard, row


def _read(index: Index, shard: int, row: dict[str, Any], recipe: FixedRecipe) -> Clip:
    payload = index.read(shard, row["offset"], row["bytes"], row["sha256"])
    beside = {
        extra["name"]: index.read(shard, extra["offset"], extra["bytes"])
        for extra in row.get("extras") or []
        if extra["name"] in ("json", "states.npy")
    }
    times = recipe.times(float(recipe.starts(row["duration_s"])[0]))
    pixels = np.empty(recipe.shapes[0], np.uint8)
    decode_clip(payload, times, size=recipe.size, crop=centred_square, out=pixels)
    facts = beside.get("json"), beside.get("states.npy"), row["frames"], row["fps"]
    return Clip(row["source"], pixels, notes_of(*facts, times))
