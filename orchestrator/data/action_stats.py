"""Statistics of a dataset's actions and states: widths, frame rates, means, standard deviations.

Measured once, shard by shard (by Ray Data, or by threads in a local run), and stored in
`motion.json`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.packing.unit import DATASET_FILE
from orchestrator.data.store.index import DatasetIndex
from orchestrator.data.store.sidecar_arrays import ACTIONS_FILE, ARRAY_FILES, find_extra, read_array
from orchestrator.errors import DataError
from orchestrator.progress import Progress
from orchestrator.storage import Storage

ACTION_STATS_FILE, FORMAT_VERSION = "motion.json", 1


_MAX_TASKS = 4096
"""Most tasks of a measurement. What each measures depends only on the index, and so do the sums."""


@dataclass
class ActionStats:
    """Statistics of the clips of a dataset, or of some of its shards."""

    clips: int = 0
    rates: Counter[float] = field(default_factory=Counter)
    """Number of clips by frames per second."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Number of arrays that cannot be used, by reason; by file name for missing ones."""

    moments_by_width: dict[str, dict[int, tuple[int, Moments]]] = field(default_factory=dict)
    """Per array and row width: number of clips, and the moments of their rows. The last row of
    actions leads to no frame and is not counted."""

    def most_common(self, name: str) -> tuple[int, Moments] | None:
        """Number of clips and moments of the commonest row width; None: no clip has the array."""
        widths = self.moments_by_width.get(name, {})
        return max(widths.values(), key=lambda one: (one[0], len(one[1].mean)), default=None)

    @property
    def most_common_fps(self) -> float:
        """Frames per second of most clips."""
        return max(self.rates, key=lambda rate: (self.rates[rate], rate))

    def add(self, name: str, clips: int, moments: Moments) -> None:
        """Add clips that have an array.

        Args:
            name: file name of the array.
            clips: number of clips.
            moments: those of their rows.
        """
        widths = self.moments_by_width.setdefault(name, {})
        before = widths.get(len(moments.mean))
        widths[len(moments.mean)] = (
            (clips, moments) if before is None else (before[0] + clips, before[1].merged(moments))
        )

    def merge(self, other: ActionStats) -> ActionStats:
        """Add the clips of `other`; returns self."""
        self.clips += other.clips
        self.rates += other.rates
        self.reasons += other.reasons
        for name, widths in other.moments_by_width.items():
            for clips, moments in widths.values():
                self.add(name, clips, moments)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as stored in `motion.json`."""
        return {
            "clips": self.clips,
            "rates": sorted(self.rates.items()),
            "reasons": dict(self.reasons),
            "arrays": {
                name: [{"clips": clips, **moments.to_dict()} for clips, moments in widths.values()]
                for name, widths in self.moments_by_width.items()
            },
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ActionStats:
        """The inverse of `to_dict`."""
        stats = cls(data["clips"], Counter(dict(data["rates"])), Counter(data["reasons"]))
        for name, widths in data["arrays"].items():
            for entry in widths:
                stats.add(name, entry["clips"], Moments.from_dict(entry))
        return stats


def load_or_measure(
    index: DatasetIndex, datasets: Storage, progress: Progress, *, local: bool
) -> ActionStats:
    """The statistics of a dataset, measured if they are not stored yet.

    They are stored in the dataset's folder if `kind: pack` made it, otherwise, or if the folder
    cannot be written, in `datasets` under the index's digest.

    Args:
        datasets: the `datasets` folder of the job's storage.

    Raises:
        JobFailed: a measuring task failed repeatedly.
    """
    dataset_folder, fallback = Storage(index.uri), datasets.subfolder(f"motion-{index.digest}")
    for folder in (dataset_folder, fallback):
        if folder.exists(ACTION_STATS_FILE):
            stored = folder.read_json(ACTION_STATS_FILE)
            if (stored.get("layout"), stored.get("digest")) == (FORMAT_VERSION, index.digest):
                return ActionStats.from_dict(stored)
    stats = measure_action_stats(index, progress, local=local)
    content = {"layout": FORMAT_VERSION, "digest": index.digest, **stats.to_dict()}
    if dataset_folder.exists(DATASET_FILE):
        try:
            dataset_folder.write_json(ACTION_STATS_FILE, content)
            return stats
        except OSError as error:
            progress.message(
                f"{dataset_folder.uri(ACTION_STATS_FILE)} cannot be written ({error}); stored in"
                f" {fallback.root}"
            )
    fallback.write_json(ACTION_STATS_FILE, content)
    return stats


def measure_action_stats(index: DatasetIndex, progress: Progress, *, local: bool) -> ActionStats:
    """Measure a dataset by reading the arrays of all clips.

    The result is the same to the bit in threads and on Ray, with any number of cores.
    """
    size = -(-index.num_shards // _MAX_TASKS)
    ranges = [(at, min(at + size, index.num_shards)) for at in range(0, index.num_shards, size)]
    parts: dict[int, ActionStats] = {}
    for first, stats in (_in_threads if local else _on_ray)(index, ranges):
        parts[first] = stats
        progress.update("actions", len(parts), len(ranges), {"dataset": index.uri})
    return reduce(ActionStats.merge, (parts[first] for first, _ in ranges), ActionStats())


def _in_threads(
    index: DatasetIndex, ranges: list[tuple[int, int]]
) -> Iterator[tuple[int, ActionStats]]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield from pool.map(lambda one: (one[0], _measure_shards(index, *one)), ranges)


def _on_ray(
    index: DatasetIndex, ranges: list[tuple[int, int]]
) -> Iterator[tuple[int, ActionStats]]:
    from orchestrator.units.ray_map import map_on_ray

    def work(row: dict[str, Any]) -> dict[str, Any]:
        first, stop = int(row["first"]), int(row["stop"])
        return {
            "first": first,
            "motions": json.dumps(_measure_shards(index, first, stop).to_dict()),
        }

    rows = [{"first": first, "stop": stop} for first, stop in ranges]
    for row in map_on_ray(work, rows, "measuring", index.uri):
        yield int(row["first"]), ActionStats.from_dict(json.loads(row["motions"]))


def _measure_shards(index: DatasetIndex, first: int, stop: int) -> ActionStats:
    stats = ActionStats()
    for shard in range(first, stop):
        for row in index.shard_rows(shard).select(["frames", "fps", "extras"]).to_pylist():
            stats.clips += 1
            stats.rates[row["fps"]] += 1
            for name in ARRAY_FILES:
                _add_array(stats, index, shard, row, name)
    return stats


def _add_array(
    stats: ActionStats, index: DatasetIndex, shard: int, row: dict[str, Any], name: str
) -> None:
    extra = find_extra(row, name)
    if extra is None:
        stats.reasons[name] += 1
        return
    try:
        rows = read_array(
            name, index.read_bytes(shard, extra["offset"], extra["bytes"]), row["frames"]
        )
    except DataError as error:
        stats.reasons[error.what] += 1
        return
    counted = rows[:-1] if name == ACTIONS_FILE and len(rows) > 1 else rows
    stats.add(name, 1, Moments.from_rows(counted))


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of rows of n numbers, float64 [n]; mergeable.

    Sums are of differences (Chan, Golub and LeVeque 1979): numbers far from zero lose no precision,
    and the standard deviation of a constant is exactly 0.
    """

    rows: int
    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    """Sum of squared differences from the mean."""

    @classmethod
    def from_rows(cls, rows: npt.NDArray[Any]) -> Moments:
        """The moments of rows [m, n], m >= 1."""
        first = rows[0].astype(np.float64)
        difference = rows.astype(np.float64) - first
        mean = difference.mean(0)
        return cls(len(rows), first + mean, ((difference - mean) ** 2).sum(0))

    def merged(self, other: Moments) -> Moments:
        """The moments of the rows of both."""
        rows = self.rows + other.rows
        difference = other.mean - self.mean
        share = other.rows / rows
        squares = self.squares + other.squares + difference**2 * (self.rows * share)
        return Moments(rows, self.mean + difference * share, squares)

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Standard deviation; 0 for a constant."""
        return np.asarray(np.sqrt(self.squares / self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `from_dict` restores the numbers exactly."""
        return {
            "rows": self.rows,
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
            "std": self.std.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Moments:
        """The inverse of `to_dict`."""
        return cls(data["rows"], np.array(data["mean"]), np.array(data["squares"]))


def pooled_mean_std(
    moments: Sequence[Moments], weights: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of a mixture of sources; standard deviation 1 for a constant.

    Args:
        moments: those of each source.
        weights: share of each source, not normalised.
    """
    share = np.asarray(weights, np.float64)[:, None] / sum(weights)
    origin = moments[0].mean
    difference = np.stack([source.mean - origin for source in moments])
    mean = (share * difference).sum(0)
    variance = (share * (np.stack([s.std for s in moments]) ** 2 + (difference - mean) ** 2)).sum(0)
    std = np.sqrt(variance)
    return (origin + mean).tolist(), np.where(std > 0, std, 1.0).tolist()
