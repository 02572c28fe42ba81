"""Clips of several sources that are cut in different ways: by frames, rate or size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from orchestrator.data.loader.clip_decoder import AnyRecipe, Clip, Coded, LocalMaker, Recipe
from orchestrator.data.loader.order import PADDING, Order
from orchestrator.data.loader.pixel_buffer import Canvas, Shape
from orchestrator.job import TrainJob


def recipe_of(job: TrainJob) -> AnyRecipe:
    """How a job's clips are made, whatever source they are of."""
    jobs = jobs_by_spec(job)
    if len(jobs) == 1:
        return Recipe.of(jobs[0])
    return MixedRecipe(tuple(map(Recipe.of, jobs)))


def jobs_by_spec(job: TrainJob) -> list[TrainJob]:
    """The job as each way of cutting clips sees it; a row's `spec` counts through them."""
    return [job.cut_as(spec) for spec in dict.fromkeys(job.data.specs)]


@dataclass(frozen=True)
class MixedRecipe:
    """One recipe for each way of cutting clips."""

    recipes: tuple[Recipe, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of a clip's pixels, by the `spec` of its row."""
        return tuple(chain.from_iterable(recipe.shapes for recipe in self.recipes))

    def maker(self, micro: int) -> MixedMaker:
        """What makes their clips in the process that asks."""
        return MixedMaker(self.recipes, micro)


class MixedMaker:
    """Makes each clip by the recipe of its own row, in this process."""

    def __init__(self, recipes: Sequence[Recipe], micro: int) -> None:
        self._makers = [LocalMaker(recipe, micro) for recipe in recipes]

    def canvas(self, spec: int = 0) -> Canvas:
        return self._makers[spec].canvas()

    def make(self, rows: list[Coded], canvas: Canvas, at: int) -> list[Clip]:
        return [
            clip
            for i, row in enumerate(rows)
            for clip in self._makers[row.spec].make([row], canvas, at + i)
        ]

    def failed(self, row: Coded, reason: str | None, out: np.ndarray) -> Clip:
        """The clip of a row that cannot be used: black, and masked like any other."""
        return self._makers[row.spec].failed(row, reason, out)

    def close(self) -> None:
        """Nothing runs."""


class Specs:
    """By which `spec` the rows of a step are made."""

    def __init__(self, job: TrainJob, order: Order) -> None:
        distinct = list(dict.fromkeys(job.data.specs))
        self._order, self._several = order, len(distinct) > 1
        self._of_source = np.array([distinct.index(spec) for spec in job.data.specs])
        buckets = [spec.bucket for spec in distinct]
        self._of_bucket = [buckets.index(bucket) for bucket in job.data.buckets]

    def of(self, step: int, positions: np.ndarray) -> list[int]:
        """Of each row at int64 `positions`; padding is made like any clip of the step's shape."""
        if not self._several:
            return [0] * len(positions)
        found = np.full(len(positions), self._of_bucket[self._order.bucket(step)])
        real = positions != PADDING
        found[real] = self._of_source[self._order.sources(positions[real])]
        specs: list[int] = found.tolist()
        return specs
