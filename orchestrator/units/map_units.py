"""Work that is cut into units: side by side on Ray, or one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

S = TypeVar("S")
U = TypeVar("U")
R = TypeVar("R")


def map_units(
    work: Callable[[S, U], R], shared: S, units: Sequence[U], *, cpus: float, local: bool
) -> Iterator[tuple[int, R]]:
    """(number of the unit, its result) as units finish.

    Args:
        work: a module's function; it gets `shared` and one unit.
        shared: what all units need; on Ray it travels once to each node.
        cpus: cores that a unit reserves on Ray.
        local: no Ray.
    """
    if local:
        yield from ((number, work(shared, unit)) for number, unit in enumerate(units))
        return
    import ray

    @ray.remote(num_cpus=cpus)  # type: ignore[untyped-decorator]
    def task(shared: S, unit: U) -> R:
        torch.set_num_threads(max(1, int(cpus)))
        return work(shared, unit)

    there = ray.put(shared)
    waiting: dict[Any, int] = {
        task.remote(there, unit): number for number, unit in enumerate(units)
    }
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting))
        yield waiting.pop(ready), ray.get(ready)
