"""Things fall and bounce."""

from __future__ import annotations

import numpy as np

from orchestrator.physics.scene import Scene
from orchestrator.physics.scenes.common import Palette, floor_and_walls, sample_body


def build(rng: np.random.Generator) -> Scene:
    """One to three things of their own bounciness, let go at different heights."""
    palette = Palette.sample(rng)
    floor = float(rng.uniform(0.4, 1.4))
    count = int(rng.integers(1, 4))
    lanes = rng.permutation(np.linspace(1.6, 8.4, count + 1)[:-1] + 6.8 / (2 * (count + 1)))
    things = tuple(
        sample_body(
            rng,
            palette,
            (float(lane), float(rng.uniform(5.0, 8.8))),
            velocity=(float(rng.uniform(-1.2, 1.2)), 0.0, float(rng.uniform(-2, 2))),
            restitution=(0.55, 0.92),
            angle=float(rng.uniform(-0.6, 0.6)),
        )
        for lane in lanes
    )
    return Scene(
        "drop",
        things,
        tuple(floor_and_walls(palette, floor)),
        palette.sample_background(),
        outline_brightness=palette.outline_brightness,
    )
