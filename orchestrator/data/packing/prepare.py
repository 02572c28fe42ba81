"""From a train job's sources to indexes: packs or indexes what is not yet, opens what is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.data.codec.decode import STILL_S
from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import pack_source
from orchestrator.data.packing.subset import longer_than
from orchestrator.data.packing.verify import wrong_sizes
from orchestrator.data.sources.base import AnySource, PackedSource, open_source
from orchestrator.data.sources.folder import FolderSource
from orchestrator.data.store.index import Index
from orchestrator.errors import DataError, RequestError
from orchestrator.job import Encode, MixedSource, TrainJob, WeightedSource
from orchestrator.progress import Progress
from orchestrator.storage import Storage

_TARS = 256
"""Tars, evenly spread, whose presence and size are looked at before a training."""


@dataclass(frozen=True)
class Prepared:
    """The datasets of a training, one per source, and the digest (16 hex digits) of them all.

    `quarantined`: inputs and clips that packing could not use.
    """

    indexes: list[Index]
    weights: list[float | None]
    digest: str
    quarantined: int


def prepare(job: TrainJob, progress: Progress, local: bool = False) -> Prepared:
    """The datasets of a train job. Doing it again finds them made.

    `local`: one process, no Ray. Otherwise Ray is used if there is something to pack.

    Raises:
        RequestError: a source is not there, holds no video, or no video is as long as a clip.
        JobFailed: packing stopped; what is committed stays and is continued next time.
        DataError: tars are missing or are not what their index says.
    """
    wanted, specs = wanted_sources(job), job.data.specs
    sources = [open_source(source.uri) for source in wanted]
    for i, opened in enumerate(sources):
        if isinstance(opened, FolderSource) and opened.pictures:
            _refuse_moving_pictures(job, i)
    datasets = Storage(job.storage).sub("datasets")
    packed, quarantined = _packed(
        sources, job.data, [spec.span for spec in specs], datasets, progress, local
    )
    indexes = []
    for i, (index, source) in enumerate(zip(packed, wanted, strict=True)):
        if index.durations()[1] == STILL_S:
            _refuse_moving_pictures(job, i)
            indexes.append(index)
            continue
        span = specs[i].span
        enough = longer_than(index, span, datasets)
        if enough.clips < index.clips:
            progress.message(
                f"{index.clips - enough.clips} of {index.clips} segments of {source.uri} are"
                f" shorter than a clip ({span:.2f} s) and are left out"
            )
        indexes.append(enough)
    digest = hashlib.sha256("\n".join(index.digest for index in indexes).encode())
    weights = [source.weight for source in wanted]
    return Prepared(indexes, weights, digest.hexdigest()[:16], quarantined)


class Packing(Protocol):
    """What a job's `data` says of how raw video is packed (of a train job, or an embed job)."""

    @property
    def encode(self) -> Encode: ...
    @property
    def bad_limit(self) -> float: ...


def open_datasets(
    wanted: Sequence[WeightedSource],
    data: Packing,
    span: float,
    datasets: Storage,
    progress: Progress,
    local: bool,
) -> tuple[list[Index], int]:
    """The whole dataset of each source, packed where it is not yet, and how many of their inputs
    packing could not use.

    Args:
        span: seconds from a clip's first frame to its last.

    Raises:
        As `prepare`, but a dataset may have segments that are shorter than a clip.
    """
    sources = [open_source(source.uri) for source in wanted]
    return _packed(sources, data, [span] * len(sources), datasets, progress, local)


def _packed(
    sources: list[AnySource],
    data: Packing,
    spans: list[float],
    datasets: Storage,
    progress: Progress,
    local: bool,
) -> tuple[list[Index], int]:
    for span, source in zip(spans, sources, strict=True):
        _refuse_short_segments(span, data.encode, source)
    indexes, quarantined = [], 0
    for source in sources:
        index = pack_source(
            source, data.encode, datasets, data.bad_limit, progress=progress, local=local
        )
        _refuse_lost_tars(index)
        quarantined += len(read_quarantine(Storage(index.uri)))
        indexes.append(index)
    return indexes, quarantined


def wanted_sources(job: TrainJob) -> tuple[MixedSource, ...]:
    """The sources of a train job, one or several."""
    if job.data.source is not None:
        return (MixedSource(uri=job.data.source),)
    return job.data.sources


def _refuse_short_segments(span: float, encode: Encode, source: AnySource) -> None:
    """Find out before hours of packing that no segment can hold a clip."""
    if isinstance(source, PackedSource) or (isinstance(source, FolderSource) and source.pictures):
        return
    if span >= encode.segment:
        raise RequestError(
            f"a clip spans {span:.2f} s from its first frame to its last, but videos are cut into"
            f" segments of at most {encode.segment:g} s",
            where="data.encode.segment",
            mend=f"set data.encode.segment={4 * span:.0f}",
        )


def _refuse_moving_pictures(job: TrainJob, i: int) -> None:
    """A picture is one moment: the frames of one token."""
    moment, spec = job.model.tubelet, job.data.specs[i]
    if spec.frames != moment:
        uri = wanted_sources(job)[i].uri
        key = f"data.sources.{i}.frames" if job.data.sources else "data.frames"
        raise RequestError(
            f"{uri} holds pictures, which stand still: {spec.frames} frames of one are"
            f" {spec.frames // moment} moments that are alike",
            where=key,
            mend=f"write frames: {moment} there (one moment, model.tubelet)",
        )


def _refuse_lost_tars(index: Index) -> None:
    problems = wrong_sizes(index, _TARS)
    if problems:
        raise DataError(
            f"the index does not match its tars: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""),
            where=index.uri,
            mend="restore the tars, or delete the folder and pack again",
        )
