"""All randomness of a run is drawn from (seed, position): no generator state is ever saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# One stream per purpose, so that a change to one draw leaves the others as they were.
STREAMS = {
    "order": 0,
    "clip": 1,
    "augment": 2,
    "masks": 3,
    "weights": 4,
    "physics": 5,
    "slices": 20,
    "backdrop": 21,
    "probe": 22,
    "tune": 23,
    "explore": 24,
    "worlds": 30,
    "tasks": 31,
    "arms": 32,
}


def generator(seed: int, position: int, stream: str, part: int = 0) -> np.random.Generator:
    """A generator that is a pure function of (seed, position, stream, part).

    `part` tells apart several draws of one stream at one position (one per mask, say).
    """
    import numpy as np

    counter = [0, 0, part, STREAMS[stream]]
    key = np.array([seed & (2**64 - 1), position & (2**64 - 1)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
