"""The order of training: the clip at a position is a pure function of (seed, position).

A step has clips of one shape. If sources have several shapes (buckets), the steps are interleaved
among the buckets by a fixed cycle of slots, and the k-th step of a bucket has its k-th global
batch. Within a bucket, its sources are interleaved in the same way. Within a source, the k-th clip
drawn belongs to pass k // clips. In a pass the shards are permuted, consecutive shards form
windows, and the clips of a window are permuted; so each clip appears once per pass, reading stays
within a few shards, and memory is O(shards).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.data.loader.permute import derive_keys, permute
from orchestrator.errors import RequestError
from orchestrator.job import TrainJob
from orchestrator.randomness import generator

PADDING = -1
"""Position of a row that only fills up a batch: weight 0, black pixels, not in the ledger."""

INTERLEAVE_SLOTS = 4096
"""Slots of the interleave: shares of sources are exact to 1/4096."""

_PASSES_CACHED = 2


@dataclass(frozen=True)
class DrawnClips:
    """The clips at some positions; int64 arrays of one length."""

    source: np.ndarray
    pass_index: np.ndarray
    """Number of complete passes over the source before."""

    shard: np.ndarray
    row: np.ndarray
    """The clip within its shard."""


class Order:
    """Gives the clip at each position.

    Args:
        counts: clips per shard, one int64 array per source.
        weights: share of each source; all None: by number of clips.
        shuffle_window: shards that are shuffled together.
        epoch_length: positions that count as one epoch; None: the number of clips.
        buckets: the bucket of each source, numbered from 0; None: one bucket.
        global_batch: positions of a step; used with several buckets only.

    Raises:
        RequestError: a source without clips, or weights for some sources only.
    """

    def __init__(
        self,
        counts: list[np.ndarray],
        weights: list[float | None],
        seed: int,
        shuffle_window: int,
        epoch_length: int | None = None,
        buckets: Sequence[int] | None = None,
        global_batch: int = 1,
    ) -> None:
        self.seed, self.shuffle_window = seed, shuffle_window
        self._counts = [np.asarray(c, dtype=np.int64) for c in counts]
        self._clips = np.array([int(c.sum()) for c in self._counts], dtype=np.int64)
        self._check(weights)
        shares = [w for w in weights if w is not None] or self._clips.tolist()
        of = np.zeros(len(counts), np.int64) if buckets is None else np.asarray(buckets)
        self._cycles = [
            _InterleaveCycle.build(np.flatnonzero(of == b), shares) for b in range(of.max() + 1)
        ]
        together = [sum(shares[i] for i in cycle.members) for cycle in self._cycles]
        self._steps = _InterleaveCycle.build(np.arange(len(together)), together)
        self._global_batch = global_batch
        self.epoch_length = epoch_length or int(self._clips.sum())
        self._passes: OrderedDict[tuple[int, int], _SourcePass] = OrderedDict()

    def _check(self, weights: list[float | None]) -> None:
        empty = [i for i, clips in enumerate(self._clips) if clips == 0]
        if empty:
            raise RequestError(
                f"source {empty[0] + 1} of {len(self._clips)} has no clips",
                where="data",
                hint="name a source with at least one usable clip",
            )
        given = [w is not None for w in weights]
        if any(given) and not all(given):
            raise RequestError(
                "some sources have a weight and some have none",
                where="data.sources",
                hint="give every source a weight, or none of them (then by number of clips)",
            )

    @classmethod
    def from_job(
        cls, job: TrainJob, counts: list[np.ndarray], weights: list[float | None]
    ) -> Order:
        """The order of a train job.

        Args:
            counts: clips per shard, one int64 array per source.
            weights: share of each source.

        Raises:
            RequestError: a source without clips, or weights for some sources only.
        """
        data, of = job.data, None
        if len(data.buckets) > 1:
            of = [data.buckets.index(spec.bucket) for spec in data.clip_specs]
        named = (job.seed, data.window, data.epoch, of, job.scale.global_batch)
        return cls(counts, weights, *named)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": OrderedDict()}

    def lookup(self, positions: np.ndarray) -> DrawnClips:
        """The clips at `positions` (int64 [n], none negative)."""
        source, drawn = self._source_and_draw_count(np.asarray(positions, dtype=np.int64))
        pass_index, index = np.divmod(drawn, self._clips[source])
        shard, row = np.empty_like(index), np.empty_like(index)
        for group in _groups(source, pass_index):
            source_pass = self._source_pass(int(source[group[0]]), int(pass_index[group[0]]))
            shard[group], row[group] = source_pass.locate(index[group])
        return DrawnClips(source, pass_index, shard, row)

    def source_of(self, positions: np.ndarray) -> np.ndarray:
        """The source of the clip at each of `positions`, int64 [n]."""
        return self._source_and_draw_count(np.asarray(positions, dtype=np.int64))[0]

    def bucket_of_step(self, step: int) -> int:
        """The bucket of all clips of a step."""
        return int(self._steps.lookup(np.array([step]))[0][0])

    def _source_and_draw_count(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each position, and the number of its clips at earlier positions."""
        if len(self._cycles) == 1:
            return self._cycles[0].lookup(positions)
        step, row = np.divmod(positions, self._global_batch)
        bucket, before = self._steps.lookup(step)
        source, drawn = np.empty_like(positions), np.empty_like(positions)
        for number in np.unique(bucket):
            which = bucket == number
            inside = before[which] * self._global_batch + row[which]
            source[which], drawn[which] = self._cycles[number].lookup(inside)
        return source, drawn

    def _source_pass(self, source: int, pass_index: int) -> _SourcePass:
        key = (source, pass_index)
        if key not in self._passes:
            stale = [k for k in self._passes if k[0] == source][: 1 - _PASSES_CACHED]
            for old in stale:
                del self._passes[old]
            self._passes[key] = _SourcePass(
                self._counts[source], self.seed, source, pass_index, self.shuffle_window
            )
        self._passes.move_to_end(key)
        return self._passes[key]


@dataclass(frozen=True)
class _InterleaveCycle:
    """A cycle of slots, shared by members in fixed proportions and repeated forever."""

    members: np.ndarray
    slot_member: np.ndarray
    slot_rank: np.ndarray
    quota: np.ndarray

    @classmethod
    def build(cls, members: np.ndarray, shares: Sequence[float]) -> _InterleaveCycle:
        """Build the cycle of `members`, which are indices into `shares`."""
        return cls(members, *interleave([shares[i] for i in members]))

    def lookup(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The member at each index, and the number of its slots at earlier indices."""
        cycle, slot = np.divmod(index, len(self.slot_member))
        member = self.slot_member[slot]
        return self.members[member], cycle * self.quota[member] + self.slot_rank[slot]


class _SourcePass:
    """One pass over one source: its permuted shards and the clips before each of them."""

    def __init__(
        self, counts: np.ndarray, seed: int, source: int, pass_index: int, window: int
    ) -> None:
        random = generator(seed, pass_index, "order", source)
        self.key = int(random.integers(2**63))
        self.shards = np.arange(len(counts), dtype=np.int32)
        random.shuffle(self.shards)
        self.clips_before = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts[self.shards], out=self.clips_before[1:])
        self.window_starts = np.append(self.clips_before[:-1:window], self.clips_before[-1])

    def locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and row of the `index`-th clips of this pass."""
        window = np.searchsorted(self.window_starts, index, side="right") - 1
        start = self.window_starts[window]
        size = self.window_starts[window + 1] - start
        index = start + permute(index - start, size, derive_keys(self.key, window))
        slot = np.searchsorted(self.clips_before, index, side="right") - 1
        return self.shards[slot].astype(np.int64), index - self.clips_before[slot]


def interleave(shares: list[float] | list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Build a cycle of slots in which each source has slots by its share, evenly spread.

    Returns:
        Per slot its source and how many slots of that source come before it in the cycle;
        per source its number of slots. Every source has at least one.
    """
    if len(shares) == 1:
        return np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.int64)
    if len(shares) > INTERLEAVE_SLOTS:
        raise RequestError(
            f"{len(shares)} sources, {INTERLEAVE_SLOTS} at most", where="data.sources"
        )
    exact = np.asarray(shares, dtype=np.float64) / sum(shares) * INTERLEAVE_SLOTS
    quota = np.maximum(np.floor(exact), 1).astype(np.int64)
    while quota.sum() != INTERLEAVE_SLOTS:
        # Largest remainder; where the sources lifted to one slot took too many, the source
        # that is most above its share gives one back.
        step = 1 if quota.sum() < INTERLEAVE_SLOTS else -1
        surplus = np.where((step < 0) & (quota == 1), -np.inf, step * (exact - quota))
        quota[int(np.argmax(surplus))] += step
    ideal = np.concatenate([(np.arange(q) + 0.5) / q for q in quota])
    source = np.repeat(np.arange(len(quota)), quota)
    rank = np.concatenate([np.arange(q) for q in quota])
    slots = np.lexsort((source, ideal))
    return source[slots], rank[slots], quota


def _groups(source: np.ndarray, pass_index: np.ndarray) -> list[np.ndarray]:
    """Groups of indices of the elements with the same source and pass."""
    order = np.lexsort((pass_index, source))
    changes = np.flatnonzero((np.diff(source[order]) != 0) | (np.diff(pass_index[order]) != 0)) + 1
    return [group for group in np.split(order, changes) if len(group)]
