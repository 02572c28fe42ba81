from __future__ import annotations

import math
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import RequestError
from orchestrator.jepa.masks import (
    FutureSampler,
    MultiBlockSampler,
    build_mask_samplers,
    mask_counts,
    truncate_to_minimum,
)
from orchestrator.job import Future, MultiBlock
from orchestrator.job.config.masks import VJEPA2_MASKS
from orchestrator.randomness import generator

GRID = (8, 16, 16)
TOKENS = math.prod(GRID)


def rng(position: int) -> np.random.Generator:
    return generator(7, position, "masks")


def naive_union(mask: MultiBlock, grid: tuple[int, int, int], seed: int) -> set[int]:
    """The original's sampler token by token, with a generator of its own."""
    import random

    draw = random.Random(seed)
    duration, height, width = grid
    t = max(1, int(duration * mask.temporal))
    area = int(height * width * mask.spatial)
    aspect = mask.aspect[0] + draw.random() * (mask.aspect[1] - mask.aspect[0])
    h = min(round(math.sqrt(area * aspect)), height)
    w = min(round(math.sqrt(area / aspect)), width)
    hidden = set()
    for _ in range(mask.blocks):
        top, left = draw.randint(0, height - h), draw.randint(0, width - w)
        start = draw.randint(0, duration - t)
        for z in range(start, start + t):
            for y in range(top, top + h):
                for x in range(left, left + w):
                    hidden.add((z * height + y) * width + x)
    return hidden


@pytest.mark.parametrize("temporal", [1.0, 0.5])
@pytest.mark.parametrize("published", VJEPA2_MASKS)
def test_blocks_are_drawn_as_the_original_draws_them(
    published: MultiBlock, temporal: float
) -> None:
    mask = published.model_copy(update={"temporal": temporal, "truncate": True})
    sampler = MultiBlockSampler(mask, GRID)
    clips = 400
    ours, theirs = np.zeros(TOKENS), np.zeros(TOKENS)
    counts: tuple[list[int], list[int]] = ([], [])
    for i in range(clips):
        context, target = sampler(rng(i))
        assert np.array_equal(np.sort(np.concatenate([context, target])), np.arange(TOKENS))
        ours[target] += 1 / clips
        reference = naive_union(mask, GRID, i)
        theirs[list(reference)] += 1 / clips
        counts[0].append(len(target))
        counts[1].append(len(reference))
    error = math.hypot(*(np.std(c) / math.sqrt(clips) for c in counts))
    assert abs(np.mean(counts[0]) - np.mean(counts[1])) < 4 * error
    assert np.std(counts[0]) == pytest.approx(np.std(counts[1]), rel=0.25)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.9  # the middle is hidden more often than the rim


@pytest.mark.parametrize("grid", [(8, 16, 16), (8, 8, 8), (1, 4, 4), (4, 3, 5)])
@pytest.mark.parametrize(
    "mask",
    [
        *VJEPA2_MASKS,
        MultiBlock(temporal=0.4, targets=0.3, context=0.3),
        MultiBlock(blocks=1, spatial=0.02, targets=0.8, context=0.2),
        MultiBlock(blocks=3, spatial=1.0, targets=0.5, context=0.5),
    ],
)
def test_multiblock_counts_are_exact(mask: MultiBlock, grid: tuple[int, int, int]) -> None:
    sampler = MultiBlockSampler(mask, grid)
    assert (sampler.n_context, sampler.n_target) == mask_counts(mask, math.prod(grid))
    for i in range(20):
        context, target = sampler(rng(i))
        assert (len(context), len(target)) == (sampler.n_context, sampler.n_target)
        both = np.concatenate([context, target])
        assert len(np.unique(both)) == len(both)
        assert both.min() >= 0
        assert both.max() < math.prod(grid)
        assert context.dtype == target.dtype == np.int64
        assert (np.diff(context) > 0).all()
        assert (np.diff(target) > 0).all()
        again = sampler(rng(i))
        assert np.array_equal(again[0], context)
        assert np.array_equal(again[1], target)


@pytest.mark.parametrize("targets", [0.5, 0.75])
def test_the_union_is_trimmed_or_grown_at_its_border_only(targets: float) -> None:
    mask = MultiBlock(targets=targets, context=0.2)
    fixed = MultiBlockSampler(mask, GRID)
    original = MultiBlockSampler(mask.model_copy(update={"truncate": True}), GRID)
    for i in range(40):
        target = np.zeros(TOKENS, bool)
        union = np.zeros(TOKENS, bool)
        target[fixed(rng(i))[1]] = True
        union[original(rng(i))[1]] = True  # the blocks are drawn first: the same generator
        small, large = sorted([target, union], key=np.sum)
        assert not (small & ~large).any()
        # Columns stay whole in time, all but the one where the count is reached.
        columns = target.reshape(8, -1).sum(0)
        assert ((columns > 0) & (columns < 8)).sum() <= 1
        # A column that changed is no further from the other side than every one that did not.
        distance = distances(~union if union.sum() >= target.sum() else union)
        changed = (target != union).reshape(8, -1).any(0)
        side = (union if union.sum() >= target.sum() else ~union).reshape(8, -1).any(0)
        if changed.any() and (side & ~changed).any():
            assert distance[changed].max() <= distance[side & ~changed].min()


def distances(outside: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """City-block distance of each column to the nearest column of `outside`."""
    flat = outside.reshape(GRID)[0]
    points = np.argwhere(flat)
    grid = np.argwhere(np.ones_like(flat))
    return np.abs(grid[:, None] - points[None]).sum(-1).min(1)


def test_every_token_can_be_context_and_target() -> None:
    for published in VJEPA2_MASKS:
        sampler = MultiBlockSampler(published, (4, 6, 6))
        seen, asked = np.zeros(144, int), np.zeros(144, int)
        for i in range(800):
            context, target = sampler(rng(i))
            seen[context] += 1
            asked[target] += 1
        assert seen.min() > 0
        assert asked.min() > 0


def test_future_hides_what_follows() -> None:
    mask = Future(visible=(2, 4), targets=0.4, context=100)
    sampler = FutureSampler(mask, GRID)
    borders = set()
    for i in range(60):
        context, target = sampler(rng(i))
        assert (len(context), len(target)) == (100, math.floor(0.4 * TOKENS + 1e-6))
        assert len(np.unique(context)) == 100
        assert len(np.unique(target)) == len(target)
        assert context.max() < target.min()
        borders.add(int(target.min() // 256))
    assert borders == {2, 3, 4}


@pytest.mark.parametrize("mask", VJEPA2_MASKS)
def test_truncation_cuts_a_batch_from_the_end_of_time(mask: MultiBlock) -> None:
    sampler = MultiBlockSampler(mask.model_copy(update={"truncate": True}), GRID)
    assert not sampler.fixed
    drawn = [sampler(rng(i)) for i in range(24)]
    cut = truncate_to_minimum(drawn)
    assert len({(len(c), len(t)) for c, t in cut}) == 1
    assert len(cut[0][0]) == min(len(c) for c, _ in drawn)
    assert len(cut[0][1]) == min(len(t) for _, t in drawn)
    for (context, target), (kept, asked) in zip(drawn, cut, strict=True):
        assert np.array_equal(context[: len(kept)], kept)
        assert np.array_equal(target[: len(asked)], asked)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("objective.masks=[{targets: 0.8, context: 0.3}]", "more than the 64 tokens"),
        ("objective.masks=[{targets: 60, context: 5}]", "more than the 64 tokens"),
        ("objective.masks=[{targets: 2.5}]", "no count"),
        ("objective.masks=[{aspect: [2.0, 1.0]}]", "aspect"),
        ("objective.masks=[{truncate: true, spatial: 1.0}]", "no context"),
        ("objective.masks=[{kind: future, visible: [4, 4]}]", "visible"),
        ("objective.masks=[{kind: future, visible: [2, 1]}]", "visible"),
        (
            "objective.masks=[{kind: future, visible: [1, 1], context: 0.4, targets: 0.5}]",
            "past|16",
        ),
        ("objective.masks=[{kind: future, visible: [1, 3], targets: 0.5}]", "targets"),
    ],
)
def test_a_job_refuses_masks_that_cannot_be_drawn(
    override: str, reason: str, make_job: Any
) -> None:
    with pytest.raises(RequestError, match=reason):
        make_job(override)


def test_the_sampler_refuses_too() -> None:
    with pytest.raises(RequestError, match="more than"):
        mask_counts(MultiBlock(targets=0.9, context=0.2), 100)
    with pytest.raises(RequestError, match="visible"):
        FutureSampler(Future(visible=(8, 8)), GRID)
    # Truncation needs no counts: whatever is left is the context.
    MultiBlockSampler(MultiBlock(targets=0.9, context=0.9, truncate=True), GRID)
    endless = MultiBlock(blocks=400, spatial=0.9, truncate=True)
    with pytest.raises(RequestError, match="left no context"):
        MultiBlockSampler(endless, (1, 4, 4))(rng(0))


@pytest.mark.parametrize("mask", [*VJEPA2_MASKS, Future()])
def test_a_mask_of_2048_tokens_takes_well_under_a_millisecond(mask: MultiBlock | Future) -> None:
    sampler = (
        FutureSampler(mask, GRID) if isinstance(mask, Future) else MultiBlockSampler(mask, GRID)
    )
    spent = []
    for i in range(100):
        source = rng(i)
        start = time.thread_time()  # of the processor: others may be at work
        sampler(source)
        spent.append(time.thread_time() - start)
    assert min(spent) < 0.6e-3


OWN = """
import numpy as np
from pydantic import BaseModel

class Checker:
    class Config(BaseModel):
        odd: bool = False

    fixed = True

    def __init__(self, config, grid):
        ids = np.arange(np.prod(grid))
        self.context, self.target = ids[config.odd::2], ids[1 - config.odd::2]
        self.n_context, self.n_target = len(self.context), len(self.target)

    def __call__(self, rng):
        return self.context, self.target
"""


def test_own_mask_by_import_path(tmp_path: Any, monkeypatch: Any, make_job: Any) -> None:
    (tmp_path / "mine_masks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    job = make_job("objective.masks=[{kind: 'mine_masks:Checker', odd: true}, {kind: multiblock}]")
    own, blocks = build_mask_samplers(job)
    assert own(rng(0))[0][:3].tolist() == [1, 3, 5]
    assert isinstance(blocks, MultiBlockSampler)


def test_masks_need_no_torch() -> None:
    code = "import orchestrator.jepa.masks, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
