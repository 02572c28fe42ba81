"""Whether a dataset's actions are all of one kind: as many numbers a row in every clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from orchestrator.data.sources.base import Rejected
from orchestrator.data.store.index_writer import IndexedShard
from orchestrator.data.store.sidecar_arrays import ACTIONS_FILE, ARRAY_FILES, find_extra


class ArrayWidths:
    """Counts what clips with actions have; the most frequent is the dataset's."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, ...]] = Counter()

    def __str__(self) -> str:
        seen = ((n, *widths) for widths, n in self._counts.most_common())
        return ", ".join(f"{n} clips with {a} numbers and states of {s}" for n, a, s in seen)

    def add(self, shard: IndexedShard) -> None:
        """Count the clips of a shard."""
        self._counts.update(widths for clip in shard.clips if (widths := _widths_of_clip(clip)))

    @property
    def num_minority_clips(self) -> int:
        """Clips whose actions, or the states beside them, are not like the others'."""
        return sum(n for widths, n in self._counts.items() if self._mismatch(widths) is not None)

    def without_minority_clips(self, shard: IndexedShard, rejected: list[Rejected]) -> IndexedShard:
        """The shard's other clips; a row of `rejected` for each that is left out."""
        kept = []
        for clip in shard.clips:
            widths = _widths_of_clip(clip)
            fault = self._mismatch(widths) if widths else None
            if fault is None:
                kept.append(clip)
            else:
                rejected.append(Rejected(clip["source"], fault))
        return IndexedShard(shard.shard, shard.bytes, shard.sha256, kept)

    def _mismatch(self, widths: tuple[int, ...]) -> str | None:
        common = max(self._counts, key=lambda key: (self._counts[key], key))
        for name, width, usual in zip(ARRAY_FILES, widths, common, strict=True):
            # States that nobody else has do no harm: no job of this dataset reads them.
            if usual and width != usual:
                found = f"has {width} numbers a row" if width else "is missing"
                return f"{name} {found}, most of the dataset has {usual}"
        return None


def _widths_of_clip(clip: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Numbers of a row of each array, 0: it is not there; None: the clip has no actions."""
    found = [find_extra(clip, name) for name in ARRAY_FILES]
    if find_extra(clip, ACTIONS_FILE) is None:
        return None
    return tuple((extra.get("width") or 0) if extra else 0 for extra in found)
