"""Which tokens a clip shows (context) and which are predicted (targets). numpy only.

Every sampler is a function of the generator it is given and nothing else. Token ids are
(t * H + y) * W + x on the job's grid. A mask of your own is named by its import path: a class
that follows `MaskSampler`, with a pydantic model `Config` of its keys, made by
`Name(config, grid)`.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from orchestrator.errors import RequestError
from orchestrator.job import Future, MultiBlock, TrainJob, component_config, import_component
from orchestrator.job.config.base import CustomComponent
from orchestrator.job.config.masks import check_mask, mask_counts

__all__ = [
    "FutureSampler",
    "Ids",
    "MaskConfig",
    "MaskSampler",
    "MultiBlockSampler",
    "TokenGrid",
    "build_mask_samplers",
    "mask_configs",
    "mask_counts",
    "samplers_for",
    "truncate_to_minimum",
]

Ids = npt.NDArray[np.int64]
TokenGrid = tuple[int, int, int]
TokenMask = npt.NDArray[np.bool_]
MaskConfig = MultiBlock | Future | CustomComponent

MAX_REDRAWS = 1000


class MaskSampler(Protocol):
    """Draws the context and the targets of one clip."""

    n_context: int
    """Tokens of the context."""

    n_target: int
    """Tokens to predict."""

    fixed: bool
    """Whether every clip has these counts; if not, `truncate_to_minimum` evens out a batch."""

    def __call__(self, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Context and target ids, each sorted, without an id in common."""


class MultiBlockSampler:
    """V-JEPA's blocks (arXiv 2404.08471, section 3.2), brought to a fixed count of tokens."""

    def __init__(self, mask: MultiBlock, grid: TokenGrid) -> None:
        check_mask(mask, grid)
        self.mask, self.grid = mask, grid
        self.fixed = not mask.truncate
        self.n_context, self.n_target = mask_counts(mask, math.prod(grid))

    def __call__(self, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Context and target ids, each sorted."""
        if self.mask.truncate:
            return self._draw_untrimmed(rng)
        targets = _grow_or_trim(self._draw_union(rng), self.n_target, rng).ravel()
        rest = np.flatnonzero(~targets)
        context = rng.choice(rest, self.n_context, replace=False, shuffle=False)
        context.sort()
        return context, np.flatnonzero(targets)

    def _draw_union(self, rng: np.random.Generator) -> TokenMask:
        """The union of the blocks; all blocks of a clip have one size."""
        duration, height, width = self.grid
        area = int(height * width * self.mask.spatial)
        aspect = rng.uniform(*self.mask.aspect)
        t = max(1, int(duration * self.mask.temporal))
        h = min(height, max(1, round(math.sqrt(area * aspect))))
        w = min(width, max(1, round(math.sqrt(area / aspect))))
        union = np.zeros(self.grid, dtype=bool)
        corners = rng.integers(
            (duration - t + 1, height - h + 1, width - w + 1), size=(self.mask.blocks, 3)
        )
        for start, top, left in corners.tolist():
            union[start : start + t, top : top + h, left : left + w] = True
        return union

    def _draw_untrimmed(self, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """The union and all of its complement, drawn again while nothing is left to see."""
        for _ in range(MAX_REDRAWS):
            union = self._draw_union(rng).ravel()
            if not union.all():
                return np.flatnonzero(~union), np.flatnonzero(union)
        raise RequestError(
            f"{MAX_REDRAWS} draws of {self.mask.blocks} blocks left no context",
            where="multiblock",
            hint="lower `spatial`, `temporal` or `blocks`",
        )


class FutureSampler:
    """The first tubelets are seen, tokens of the later ones are predicted."""

    fixed = True

    def __init__(self, mask: Future, grid: TokenGrid) -> None:
        check_mask(mask, grid)
        self.mask, self.grid = mask, grid
        self.n_context, self.n_target = mask_counts(mask, math.prod(grid))

    def __call__(self, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Context and target ids, each sorted."""
        border = int(rng.integers(*self.mask.visible, endpoint=True)) * self.grid[1] * self.grid[2]
        later = math.prod(self.grid) - border
        context = rng.choice(border, self.n_context, replace=False, shuffle=False)
        target = border + rng.choice(later, self.n_target, replace=False, shuffle=False)
        context.sort()
        target.sort()
        return context, target


def build_mask_samplers(job: TrainJob) -> list[MaskSampler]:
    """The samplers of the job's objective, in its order; [] when it has no masks."""
    return samplers_for(mask_configs(job), job.grid)


def mask_configs(job: TrainJob) -> list[MaskConfig]:
    """Masks of the job's objective; a user's own has some when its `Config` has a key `masks`."""
    return list(job.objective_config.mask_configs)


def samplers_for(masks: list[MaskConfig], grid: TokenGrid) -> list[MaskSampler]:
    """A sampler for each."""
    return [_build(mask, grid) for mask in masks]


def _build(mask: MaskConfig, grid: TokenGrid) -> MaskSampler:
    if isinstance(mask, MultiBlock):
        return MultiBlockSampler(mask, grid)
    if isinstance(mask, Future):
        return FutureSampler(mask, grid)
    sampler: MaskSampler = import_component(mask.kind)(component_config(mask), grid)
    return sampler


def truncate_to_minimum(masks: list[tuple[Ids, Ids]]) -> list[tuple[Ids, Ids]]:
    """Cut a batch's masks to its smallest counts, as V-JEPA 2's published training does.

    Ids are sorted by time, so what is cut is always the end of the clip.
    """
    n_context = min(len(context) for context, _ in masks)
    n_target = min(len(target) for _, target in masks)
    return [(context[:n_context], target[:n_target]) for context, target in masks]


def _grow_or_trim(union: TokenMask, count: int, rng: np.random.Generator) -> TokenMask:
    """Grow or trim a union along its border, layer by layer, to exactly `count` tokens.

    Within a layer a seeded rank of the columns (y, x) says what changes first, so that a
    block that lasts the whole clip keeps hiding the same places at all times.
    """
    missing = count - int(union.sum())
    if missing == 0:
        return union
    # Growing the targets and growing what is not a target are the same operation.
    grown = union if missing > 0 else ~union
    missing = abs(missing)
    rank = rng.permutation(union[0].size).reshape(union.shape[1:])
    while missing:
        border = _dilate(grown) & ~grown
        if not border.any():  # the union filled the clip: there is no border to trim along
            border = ~grown
        size = int(border.sum())
        if size > missing:
            t, y, x = np.nonzero(border)
            first = np.argsort(rank[y, x], kind="stable")[:missing]
            border = np.zeros_like(border)
            border[t[first], y[first], x[first]] = True
            size = missing
        grown = grown | border
        missing -= size
    return grown if count > union.sum() else ~grown


def _dilate(tokens: TokenMask) -> TokenMask:
    """Tokens and their neighbours along each axis."""
    out = tokens.copy()
    out[1:] |= tokens[:-1]
    out[:-1] |= tokens[1:]
    out[:, 1:] |= tokens[:, :-1]
    out[:, :-1] |= tokens[:, 1:]
    out[:, :, 1:] |= tokens[:, :, :-1]
    out[:, :, :-1] |= tokens[:, :, 1:]
    return out
