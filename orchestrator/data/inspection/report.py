"""`data inspect`: a contact sheet and a table of what the sources of a job contain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.data.codec.decode import STILL_IMAGE_DURATION_S
from orchestrator.data.inspection.contact_sheet import SheetClip, contact_sheet
from orchestrator.data.loader.order import Order
from orchestrator.data.packing.dataset import dataset_folder, is_complete, read_quarantine
from orchestrator.data.packing.pack import pack_source
from orchestrator.data.packing.prepare import sources_of
from orchestrator.data.packing.subset import filter_by_duration
from orchestrator.data.sources.base import RawClip, Rejected, ReportsSkippedInputs, Source
from orchestrator.data.sources.open import open_source
from orchestrator.data.store.index import DatasetIndex
from orchestrator.data.store.sidecar_arrays import ARRAY_FILES, ArraySummary, find_extra
from orchestrator.errors import DataError, RequestError
from orchestrator.job import TrainJob
from orchestrator.paths import require_writable
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage

_MAX_SHARDS_COUNTED = 256
"""Most shards, evenly spread, whose rows are counted."""

_TRIES_PER_CLIP = 4
"""Inputs that are tried per wanted clip; if all fail, the sheet has fewer clips."""


@dataclass
class InspectReport:
    """What the sources contain. Its fields are the keys of `--json`.

    `picture` is the path of the contact sheet. `sampled`: the source is raw video, of which only a
    few clips were encoded. `sizes`, `fps`, `codecs` and `arrays` (actions and states with their
    row width) count clips; `quarantine` counts reasons.
    """

    picture: str
    sources: list[str] = field(default_factory=list)
    sampled: bool = False
    inputs: int = 0
    clips: int = 0
    hours: float = 0.0
    bytes: int = 0
    too_short: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    fps: dict[str, int] = field(default_factory=dict)
    codecs: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, int] = field(default_factory=dict)
    quarantine: dict[str, int] = field(default_factory=dict)

    def count_clip(self, row: dict[str, Any]) -> None:
        """Count one clip's size, rate, codec and arrays."""
        _increment(self.sizes, f"{row['width']}x{row['height']}")
        _increment(
            self.fps,
            "picture" if row["duration_s"] == STILL_IMAGE_DURATION_S else f"{row['fps']:.4g}",
        )
        _increment(self.codecs, row.get("codec") or "unknown")
        if arrays := ", ".join(
            _describe_array(extra) for name in ARRAY_FILES if (extra := find_extra(row, name))
        ):
            _increment(self.arrays, arrays)

    def __str__(self) -> str:
        what = f"{self.clips} clips, {self.hours:.2f} hours, {self.bytes / 1e6:.1f} MB"
        if self.sampled:
            what = f"not packed yet: {self.inputs} inputs, {self.clips} clips encoded for the sheet"
        lines = [f"{', '.join(self.sources)}: {what}"]
        if self.too_short:
            lines.append(f"too short  {self.too_short} (shorter than a clip of this job)")
        for name in ("sizes", "fps", "codecs", "arrays", "quarantine"):
            counted: dict[str, int] = getattr(self, name)
            if counted:
                top = [f"{value} ({n})" for value, n in Counter(counted).most_common(6)]
                more = [f"{len(counted) - 6} more"] if len(counted) > 6 else []
                lines.append(f"{name:<10} {', '.join(top + more)}")
        return "\n".join([*lines, f"picture    {self.picture}"])


def _describe_array(extra: dict[str, Any]) -> str:
    """`actions of 7`: the name and, if the index has it, the width of an array."""
    width = extra.get("width")
    name: str = extra["name"].removesuffix(".npy")
    return f"{name} of {width}" if width else name


def _increment(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1


def inspect_dataset(job: TrainJob, out: Path, clips: int) -> InspectReport:
    """Write a contact sheet of `clips` clips to `out`, and count what the sources contain.

    Packed data and tars are read by their index; tars without one are indexed first. Of raw video
    only as many inputs are encoded as the sheet shows, and nothing is stored.

    Raises:
        RequestError: a source does not exist, none of its clips can be shown, or `out` cannot be
            written.
    """
    _check_image_path(out)
    report = InspectReport(str(out))
    shown: list[SheetClip] = []
    sources = sources_of(job)
    for source, spec in zip(sources, job.data.clip_specs, strict=True):
        report.sources.append(source.uri)
        clips_per_source = -(-clips // len(sources))
        index = _index_of(job, source.uri)
        spec_job = job.with_clip_spec(spec)
        if index is None:
            shown += _clips_from_raw_video(spec_job, source.uri, clips_per_source, report)
        else:
            shown += _clips_from_index(spec_job, index, clips_per_source, report)
    if not shown:
        reasons = (
            ", ".join(report.quarantine) or f"none lasts {job.data.default_clip_spec.span_s:.2f} s"
        )
        raise RequestError(
            f"no clip can be shown: {reasons}",
            where=", ".join(report.sources),
            hint="use other video, or lower data.frames",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(shown[:clips]).save(out)
    return report


def _check_image_path(out: Path) -> None:
    """Check that an image can be written to `out`.

    Raises:
        RequestError: it is a folder, not the name of an image, or cannot be written.
    """
    formats = Image.registered_extensions()
    if out.is_dir() or formats.get(out.suffix.lower()) not in Image.SAVE:
        raise RequestError(
            "a folder" if out.is_dir() else "not the name of an image file",
            where=f"--out {out}",
            hint="name a file, such as sheet.png",
        )
    require_writable(out.absolute().parent, where=f"--out {out}")


def _index_of(job: TrainJob, uri: str) -> DatasetIndex | None:
    """The index of a source; None for raw video that is not packed yet."""
    source = open_source(uri)
    datasets = Storage(job.storage).subfolder("datasets")
    if isinstance(source, Source):
        units, encode = source.units(), job.data.encode
        folder, _ = dataset_folder(datasets, source.uri, units, encode, in_place=False)
        if not is_complete(folder):
            return None
    limit = job.data.bad_limit
    return pack_source(
        source, job.data.encode, datasets, limit, progress=SilentProgress(), local=True
    )


def _clips_from_index(
    job: TrainJob, index: DatasetIndex, count: int, report: InspectReport
) -> list[SheetClip]:
    """Count the rows of the index; the clips at the first positions of the source's order."""
    report.clips += index.num_clips
    report.hours += index.seconds / 3600
    report.bytes += index.num_bytes
    for rejected in read_quarantine(Storage(index.uri)):
        _increment(report.quarantine, rejected.reason)
    for shard in np.unique(
        np.linspace(0, index.num_shards - 1, _MAX_SHARDS_COUNTED).round().astype(int)
    ):
        for row in index.shard_rows(int(shard)).to_pylist():
            report.count_clip(row)
    long_enough = index
    if index.duration_range()[1] != STILL_IMAGE_DURATION_S:
        long_enough = filter_by_duration(
            index, job.data.default_clip_spec.span_s, Storage(job.storage).subfolder("datasets")
        )
    report.too_short += index.num_clips - long_enough.num_clips
    order = Order([long_enough.clips_per_shard], [None], job.seed, job.data.window)
    positions = np.arange(min(count, long_enough.num_clips))
    draws = order.lookup(positions)
    shown = []
    for position, shard, shard_row in zip(positions, draws.shard, draws.row, strict=True):
        row = long_enough.shard_rows(int(shard)).slice(int(shard_row), 1).to_pylist()[0]
        try:
            payload = long_enough.read_bytes(int(shard), row["offset"], row["bytes"], row["sha256"])
        except DataError as error:
            _increment(report.quarantine, error.what)
            continue
        measures = row["duration_s"], int(position), row["frames"], row["fps"]
        shown.append(SheetClip(job, row["key"], payload, *measures))
    return shown


def _clips_from_raw_video(
    job: TrainJob, uri: str, count: int, report: InspectReport
) -> list[SheetClip]:
    """Encode one clip of each of a few inputs that are spread over the source."""
    report.sampled = True
    shown: list[SheetClip] = []
    for clip in _sample_raw_clips(job, uri, count, report):
        extras = [
            {"name": name, "width": ArraySummary.from_bytes(name, clip.extras[name]).width}
            for name in ARRAY_FILES
            if name in clip.extras
        ]
        names = ("width", "height", "fps", "duration_s", "codec")
        report.count_clip({**{name: getattr(clip, name) for name in names}, "extras": extras})
        report.clips += 1
        report.hours += clip.duration_s / 3600
        report.bytes += len(clip.payload)
        if STILL_IMAGE_DURATION_S < clip.duration_s <= job.data.default_clip_spec.span_s:
            report.too_short += 1
            continue
        measures = clip.duration_s, len(shown), clip.frames, clip.fps
        shown.append(SheetClip(job, clip.key, clip.payload, *measures))
        if len(shown) == count:
            break
    return shown


def _sample_raw_clips(
    job: TrainJob, uri: str, count: int, report: InspectReport
) -> Iterator[RawClip]:
    source = open_source(uri, unit_size=1)
    assert isinstance(source, Source)
    units = source.units()
    for row in source.left_out() if isinstance(source, ReportsSkippedInputs) else ():
        _increment(report.quarantine, row.reason)
    report.inputs += sum(len(unit.inputs) for unit in units)
    per_unit = -(-count // len(units))
    tries = np.unique(np.linspace(0, len(units) - 1, _TRIES_PER_CLIP * count).round().astype(int))
    # Inputs far apart first: every fourth of the tries, then those between.
    for number in [
        int(t) for start in range(_TRIES_PER_CLIP) for t in tries[start::_TRIES_PER_CLIP]
    ]:
        seen_sources: set[str] = set()
        for item in source.clips(units[number], job.data.encode):
            if isinstance(item, Rejected):
                _increment(report.quarantine, item.reason)
            elif item.source not in seen_sources:
                seen_sources.add(item.source)
                yield item
            if len(seen_sources) >= per_unit:
                break
