"""From a train job's sources to indexes: packs or indexes what is not yet, opens what is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.data.codec.decode import STILL_IMAGE_DURATION_S
from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import pack_source
from orchestrator.data.packing.subset import filter_by_duration
from orchestrator.data.packing.verify import find_size_mismatches
from orchestrator.data.sources.base import AnySource, PackedSource
from orchestrator.data.sources.folder import FolderSource
from orchestrator.data.sources.open import open_source
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import DataError, RequestError
from orchestrator.job import MixedSource, TrainJob, TranscodeConfig, WeightedSource
from orchestrator.progress import Progress
from orchestrator.storage import Storage

_TARS = 256
"""Tars, evenly spread, whose presence and size are looked at before a training."""


@dataclass(frozen=True)
class PreparedData:
    """The datasets of a training, one per source, and the digest (16 hex digits) of them all.

    `quarantined`: inputs and clips that packing could not use.
    """

    indexes: list[DatasetIndex]
    weights: list[float | None]
    digest: str
    quarantined: int


def prepare_data(job: TrainJob, progress: Progress, local: bool = False) -> PreparedData:
    """The datasets of a train job. Doing it again finds them made.

    `local`: one process, no Ray. Otherwise Ray is used if there is something to pack.

    Raises:
        RequestError: a source is not there, holds no video, or no video is as long as a clip.
        JobFailed: packing stopped; what is committed stays and is continued next time.
        DataError: tars are missing or are not what their index says.
    """
    wanted, specs = sources_of(job), job.data.clip_specs
    sources = [open_source(source.uri) for source in wanted]
    for i, opened in enumerate(sources):
        if isinstance(opened, FolderSource) and opened.images:
            _check_picture_frames(job, i)
    datasets = Storage(job.storage).subfolder("datasets")
    packed, quarantined = _packed(
        sources, job.data, [spec.span_s for spec in specs], datasets, progress, local
    )
    indexes = []
    for i, (index, source) in enumerate(zip(packed, wanted, strict=True)):
        if index.duration_range()[1] == STILL_IMAGE_DURATION_S:
            _check_picture_frames(job, i)
            indexes.append(index)
            continue
        span = specs[i].span_s
        enough = filter_by_duration(index, span, datasets)
        if enough.num_clips < index.num_clips:
            progress.message(
                f"{index.num_clips - enough.num_clips} of {index.num_clips} segments of"
                f" {source.uri} are shorter than a clip ({span:.2f} s) and are left out"
            )
        indexes.append(enough)
    digest = hashlib.sha256("\n".join(index.digest for index in indexes).encode())
    weights = [source.weight for source in wanted]
    return PreparedData(indexes, weights, digest.hexdigest()[:16], quarantined)


class PackingOptions(Protocol):
    """What a job's `data` says of how raw video is packed (of a train job, or an embed job)."""

    @property
    def encode(self) -> TranscodeConfig: ...
    @property
    def bad_limit(self) -> float: ...


def open_datasets(
    sources: Sequence[WeightedSource],
    data: PackingOptions,
    clip_span_s: float,
    datasets: Storage,
    progress: Progress,
    local: bool,
) -> tuple[list[DatasetIndex], int]:
    """The whole dataset of each source, packed where it is not yet, and how many of their inputs
    packing could not use.

    Args:
        clip_span_s: seconds from a clip's first frame to its last.

    Raises:
        As `prepare_data`, but a dataset may have segments that are shorter than a clip.
    """
    opened = [open_source(source.uri) for source in sources]
    return _packed(opened, data, [clip_span_s] * len(opened), datasets, progress, local)


def _packed(
    sources: list[AnySource],
    data: PackingOptions,
    spans: list[float],
    datasets: Storage,
    progress: Progress,
    local: bool,
) -> tuple[list[DatasetIndex], int]:
    for span, source in zip(spans, sources, strict=True):
        _check_segment_length(span, data.encode, source)
    indexes, quarantined = [], 0
    for source in sources:
        index = pack_source(
            source, data.encode, datasets, data.bad_limit, progress=progress, local=local
        )
        _check_tars(index)
        quarantined += len(read_quarantine(Storage(index.uri)))
        indexes.append(index)
    return indexes, quarantined


def sources_of(job: TrainJob) -> tuple[MixedSource, ...]:
    """The sources of a train job, one or several."""
    if job.data.source is not None:
        return (MixedSource(uri=job.data.source),)
    return job.data.sources


def _check_segment_length(span: float, encode: TranscodeConfig, source: AnySource) -> None:
    """Find out before hours of packing that no segment can hold a clip."""
    if isinstance(source, PackedSource) or (isinstance(source, FolderSource) and source.images):
        return
    if span >= encode.segment:
        raise RequestError(
            f"a clip spans {span:.2f} s from its first frame to its last, but videos are cut into"
            f" segments of at most {encode.segment:g} s",
            where="data.encode.segment",
            hint=f"set data.encode.segment={4 * span:.0f}",
        )


def _check_picture_frames(job: TrainJob, i: int) -> None:
    """A picture is one moment: the frames of one token."""
    moment, spec = job.model.tubelet, job.data.clip_specs[i]
    if spec.frames != moment:
        uri = sources_of(job)[i].uri
        key = f"data.sources.{i}.frames" if job.data.sources else "data.frames"
        raise RequestError(
            f"{uri} holds pictures, which stand still: {spec.frames} frames of one are"
            f" {spec.frames // moment} moments that are alike",
            where=key,
            hint=f"write frames: {moment} there (one moment, model.tubelet)",
        )


def _check_tars(index: DatasetIndex) -> None:
    problems = find_size_mismatches(index, _TARS)
    if problems:
        raise DataError(
            f"the index does not match its tars: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""),
            where=index.uri,
            hint="restore the tars, or delete the folder and pack again",
        )
