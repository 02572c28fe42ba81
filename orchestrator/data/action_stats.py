"""What the actions and states of a dataset are: their widths, rates, means and deviations.

Measured once, shard by shard (Ray Data, or threads in a local run), and kept as `motion.json`.
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
"""Most tasks of a measurement; what is added up, and in which order, follows from the index."""


@dataclass
class ActionStats:
    """Of the clips of a dataset, or of some of its shards."""

    clips: int = 0
    rates: Counter[float] = field(default_factory=Counter)
    """Clips by their frames a second."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Why an array of a clip cannot be used; by the array's name where it is not there."""

    found: dict[str, dict[int, tuple[int, Moments]]] = field(default_factory=dict)
    """Per array and width of a row: clips that have it, and their spread. The last row of actions
    leads nowhere and is left out."""

    def most_common(self, name: str) -> tuple[int, Moments] | None:
        """Of the width that most clips have: how many they are, and their spread."""
        widths = self.found.get(name, {})
        return max(widths.values(), key=lambda one: (one[0], len(one[1].mean)), default=None)

    @property
    def most_common_fps(self) -> float:
        """Frames a second of most clips."""
        return max(self.rates, key=lambda rate: (self.rates[rate], rate))

    def add(self, name: str, clips: int, spread: Moments) -> None:
        """Count clips that have an array."""
        widths = self.found.setdefault(name, {})
        before = widths.get(len(spread.mean))
        widths[len(spread.mean)] = (
            (clips, spread) if before is None else (before[0] + clips, before[1].merged(spread))
        )

    def merge(self, other: ActionStats) -> ActionStats:
        """This, with another's clips."""
        self.clips += other.clips
        self.rates += other.rates
        self.reasons += other.reasons
        for name, widths in other.found.items():
            for clips, spread in widths.values():
                self.add(name, clips, spread)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `motion.json` has it."""
        return {
            "clips": self.clips,
            "rates": sorted(self.rates.items()),
            "reasons": dict(self.reasons),
            "arrays": {
                name: [{"clips": clips, **spread.to_dict()} for clips, spread in widths.values()]
                for name, widths in self.found.items()
            },
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ActionStats:
        """What `to_dict` gave."""
        whole = cls(data["clips"], Counter(dict(data["rates"])), Counter(data["reasons"]))
        for name, widths in data["arrays"].items():
            for one in widths:
                whole.add(name, one["clips"], Moments.from_dict(one))
        return whole


def load_or_measure(
    index: DatasetIndex, datasets: Storage, progress: Progress, *, local: bool
) -> ActionStats:
    """What was measured of a dataset; measured now where it has not been.

    It is kept beside the index where packing of ours has made that, else, or where nothing can be
    written there, in `datasets`, by the index's digest.

    Args:
        datasets: the job's own.

    Raises:
        JobFailed: a measuring task died again and again.
    """
    beside, own = Storage(index.uri), datasets.subfolder(f"motion-{index.digest}")
    for place in (beside, own):
        if place.exists(ACTION_STATS_FILE):
            kept = place.read_json(ACTION_STATS_FILE)
            if (kept.get("layout"), kept.get("digest")) == (FORMAT_VERSION, index.digest):
                return ActionStats.from_dict(kept)
    motions = measure_action_stats(index, progress, local=local)
    what = {"layout": FORMAT_VERSION, "digest": index.digest, **motions.to_dict()}
    if beside.exists(DATASET_FILE):
        try:
            beside.write_json(ACTION_STATS_FILE, what)
            return motions
        except OSError as error:
            progress.message(
                f"{beside.uri(ACTION_STATS_FILE)} cannot be written ({error}); kept in {own.root}"
            )
    own.write_json(ACTION_STATS_FILE, what)
    return motions


def measure_action_stats(index: DatasetIndex, progress: Progress, *, local: bool) -> ActionStats:
    """Read the arrays of every clip. The same numbers, whoever measures and with how many cores."""
    size = -(-index.num_shards // _MAX_TASKS)
    ranges = [(at, min(at + size, index.num_shards)) for at in range(0, index.num_shards, size)]
    parts: dict[int, ActionStats] = {}
    for first, motions in (_in_threads if local else _on_ray)(index, ranges):
        parts[first] = motions
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
    motions = ActionStats()
    for shard in range(first, stop):
        for row in index.shard_rows(shard).select(["frames", "fps", "extras"]).to_pylist():
            motions.clips += 1
            motions.rates[row["fps"]] += 1
            for name in ARRAY_FILES:
                _add_array(motions, index, shard, row, name)
    return motions


def _add_array(
    motions: ActionStats, index: DatasetIndex, shard: int, row: dict[str, Any], name: str
) -> None:
    extra = find_extra(row, name)
    if extra is None:
        motions.reasons[name] += 1
        return
    try:
        rows = read_array(
            name, index.read_bytes(shard, extra["offset"], extra["bytes"]), row["frames"]
        )
    except DataError as error:
        motions.reasons[error.what] += 1
        return
    counted = rows[:-1] if name == ACTIONS_FILE and len(rows) > 1 else rows
    motions.add(name, 1, Moments.from_rows(counted))


@dataclass(frozen=True)
class Moments:
    """Of rows of n numbers each; float64 [n].

    Sums are of differences (Chan, Golub and LeVeque 1979): numbers far from zero lose nothing, and
    one that never changes has a deviation of exactly 0.
    """

    rows: int
    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    """Sum of the squared differences from the mean."""

    @classmethod
    def from_rows(cls, rows: npt.NDArray[Any]) -> Moments:
        """Of rows [m, n], one at least."""
        first = rows[0].astype(np.float64)
        apart = rows.astype(np.float64) - first
        mean = apart.mean(0)
        return cls(len(rows), first + mean, ((apart - mean) ** 2).sum(0))

    def merged(self, other: Moments) -> Moments:
        """Of the rows of both."""
        rows = self.rows + other.rows
        apart = other.mean - self.mean
        share = other.rows / rows
        squares = self.squares + other.squares + apart**2 * (self.rows * share)
        return Moments(rows, self.mean + apart * share, squares)

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Standard deviation; 0 where a number never changes."""
        return np.asarray(np.sqrt(self.squares / self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; numbers come back exactly."""
        return {
            "rows": self.rows,
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
            "std": self.std.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Moments:
        """What `to_dict` gave."""
        return cls(data["rows"], np.array(data["mean"]), np.array(data["squares"]))


def pooled_mean_std(
    moments: Sequence[Moments], weights: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of what is drawn from several sources with such shares; 1 where
    a number never changes."""
    part = np.asarray(weights, np.float64)[:, None] / sum(weights)
    first = moments[0].mean
    apart = np.stack([spread.mean - first for spread in moments])
    mean = (part * apart).sum(0)
    variance = (part * (np.stack([s.std for s in moments]) ** 2 + (apart - mean) ** 2)).sum(0)
    std = np.sqrt(variance)
    return (first + mean).tolist(), np.where(std > 0, std, 1.0).tolist()
