"""The order is a function of (seed, position): each clip once per pass, in O(shards) memory."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.loader.order import Order, interleave
from orchestrator.data.loader.permute import derive_keys, permute
from orchestrator.errors import RequestError

shards = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda counts: sum(counts) > 0)


def order(*sources: list[int], seed: int = 0, window: int = 3, **options: object) -> Order:
    weights = options.pop("weights", [None] * len(sources))
    counts = [np.array(counts) for counts in sources]
    return Order(counts, weights, seed, window, **options)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    sources=st.lists(shards, min_size=1, max_size=3),
    seed=st.integers(0, 2**64 - 1),
    window=st.integers(1, 5),
    weighted=st.booleans(),
)
def test_each_clip_once_per_pass(
    sources: list[list[int]], seed: int, window: int, weighted: bool
) -> None:
    weights = [1.0 + 2 * i for i in range(len(sources))] if weighted else [None] * len(sources)
    drawn = order(*sources, seed=seed, window=window, weights=weights).lookup(np.arange(300))
    for number, counts in enumerate(sources):
        mine = drawn.source == number
        turns = drawn.pass_index[mine]
        assert (np.diff(turns) >= 0).all()  # a pass begins when the one before is complete
        clips = list(zip(drawn.shard[mine].tolist(), drawn.row[mine].tolist(), strict=True))
        everything = {(s, r) for s, count in enumerate(counts) for r in range(count)}
        for turn in range(int(turns.max(initial=0)) + 1):
            seen = [clip for clip, t in zip(clips, turns, strict=True) if t == turn]
            assert len(seen) == len(set(seen))
            assert set(seen) <= everything
            if turn < turns.max():
                assert set(seen) == everything


def test_any_part_equals_the_whole_and_survives_pickling() -> None:
    made = order([5, 0, 9, 2], [7, 7], weights=[3.0, 1.0], seed=5)
    whole = made.lookup(np.arange(2000))
    copy = pickle.loads(pickle.dumps(made))
    at = np.random.default_rng(0).permutation(2000)
    for positions in (at[:500], at[500:], np.array([1999]), np.array([], dtype=np.int64)):
        part = copy.lookup(positions)
        for name in ("source", "pass_index", "shard", "row"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[positions])


def test_seed_and_pass_change_the_order() -> None:
    def first(seed: int, turn: int) -> list[tuple[int, int]]:
        drawn = order([50] * 8, seed=seed).lookup(np.arange(400) + 400 * turn)
        return list(zip(drawn.shard.tolist(), drawn.row.tolist(), strict=True))

    passes = [first(0, 0), first(0, 1), first(1, 0)]
    for a in range(3):
        for b in range(a):
            same = sum(x == y for x, y in zip(passes[a], passes[b], strict=True))
            assert same < 12  # about 1 of 400 by chance


def test_a_window_reads_from_its_shards_only() -> None:
    drawn = order([100] * 12, window=4).lookup(np.arange(1200))
    for start in range(0, 1200, 400):
        assert len(np.unique(drawn.shard[start : start + 400])) == 4
    # ... and they are shuffled together: no run of one shard is long.
    assert (np.diff(drawn.shard[:400]) == 0).mean() < 0.4


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 10, 97, 1000, 4096])
def test_the_permutation_is_one(size: int) -> None:
    for key in derive_keys(7, np.arange(20)):
        out = permute(np.arange(size), np.full(size, size), np.full(size, key))
        assert sorted(out.tolist()) == list(range(size))


def test_the_permutation_is_even() -> None:
    """Over many keys each element lands everywhere equally often (chi-square, 99.99%)."""
    size, keys = 13, 20_000
    index = np.tile(np.arange(size), keys)
    key = np.repeat(derive_keys(3, np.arange(keys)), size)
    landed = permute(index, np.full(size * keys, size), key)
    counts = np.zeros((size, size))
    np.add.at(counts, (index, landed), 1)
    chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum()
    degrees = (size - 1) ** 2
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)


def test_shares_are_kept_in_every_stretch() -> None:
    drawn = order([1000], [1000], [100], weights=[5.0, 3.0, 2.0]).lookup(np.arange(20_480))
    for start in range(0, 20_480, 512):
        share = np.bincount(drawn.source[start : start + 512], minlength=3) / 512
        assert np.abs(share - [0.5, 0.3, 0.2]).max() < 0.01
    # The small source counts its own passes.
    passes = [drawn.pass_index[drawn.source == source].max() for source in range(3)]
    assert passes == [10, 6, 40]


def test_without_weights_sources_are_drawn_by_their_clips() -> None:
    made = order([3000, 6000], [1000])
    assert made.epoch_length == 10_000
    assert np.bincount(made.lookup(np.arange(50_000)).source)[1] == pytest.approx(5000, abs=15)
    assert order([30], [10], epoch_length=7).epoch_length == 7


def test_a_tiny_share_is_still_drawn() -> None:
    source, rank, quota = interleave([1e9, 1.0])
    assert quota.tolist() == [4095, 1]
    assert (source == 1).sum() == 1
    assert sorted(rank[source == 0].tolist()) == list(range(4095))


def test_what_cannot_be_ordered_is_refused() -> None:
    with pytest.raises(RequestError, match="source 2 of 2 has no clips"):
        order([3], [0, 0])
    with pytest.raises(RequestError, match="some have none"):
        order([3], [3], weights=[1.0, None])


def test_a_billion_clips_fit_in_little_memory() -> None:
    counts = np.random.default_rng(0).integers(500, 1500, 1_000_000)
    tracemalloc.start()
    made = Order([counts], [None], seed=0, shuffle_window=16)
    # The end of one pass and the start of the next: both passes are held.
    drawn = made.lookup(np.arange(made.epoch_length - 20_000, made.epoch_length + 20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.epoch_length > 990_000_000
    assert set(drawn.pass_index.tolist()) == {0, 1}
    assert (drawn.row < counts[drawn.shard]).all()
    assert peak < 100e6
