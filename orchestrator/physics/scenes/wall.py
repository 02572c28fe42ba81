"""Things are thrown against a wall and come back."""

from __future__ import annotations

import numpy as np

from orchestrator.physics.scene import Scene, StaticPolygon, Trajectory, rectangle_vertices
from orchestrator.physics.scenes.common import WALL_THICKNESS, Palette, floor_and_walls, sample_body


def build(rng: np.random.Generator) -> Scene:
    """A thick wall that stands free on the floor, and one or two throws at it."""
    palette = Palette.sample(rng)
    floor = float(rng.uniform(0.4, 0.9))
    face = float(rng.uniform(6.4, 8.2))
    top = floor + float(rng.uniform(4.5, 7.5))
    block = StaticPolygon(
        rectangle_vertices(face, floor, face + float(rng.uniform(0.6, 1.2)), top),
        palette.static_colour(),
        "wall",
    )
    things = []
    for number in range(int(rng.integers(1, 3))):
        things.append(
            sample_body(
                rng,
                palette,
                (
                    WALL_THICKNESS + 1.1 + 0.2 * number,
                    float(rng.uniform(1.0, 2.4)) + floor + 2.6 * number,
                ),
                shapes=("ball", "ball", "box", "hexagon"),
                velocity=(
                    float(rng.uniform(4.5, 8.5)),
                    float(rng.uniform(3.0, 6.0)) - 2.5 * number,
                    float(rng.uniform(-3, 3)),
                ),
                restitution=(0.75, 0.95),
                friction=(0.1, 0.5),
                angle=float(rng.uniform(-0.5, 0.5)),
            )
        )
    scene = Scene(
        "wall",
        tuple(things),
        (*floor_and_walls(palette, floor), block),
        palette.sample_background(),
        outline_brightness=palette.outline_brightness,
        event_occurred=_hit_wall,
    )
    return scene.mirrored() if rng.random() < 0.5 else scene


def _hit_wall(seen: Trajectory) -> bool:
    """The first thing met the wall with some speed in the first two seconds."""
    return any(
        {c.a, c.b} == {"thing 0", "wall"} and c.time < 2 and c.speed > 2 for c in seen.contacts
    )
