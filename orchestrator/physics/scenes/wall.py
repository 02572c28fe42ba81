"""Things are thrown against a wall and come back."""

from __future__ import annotations

import numpy as np

from orchestrator.physics.scene import Scene, Solid, Trajectory, rectangle
from orchestrator.physics.scenes.common import WALL, Palette, room, thing


def build(rng: np.random.Generator) -> Scene:
    """A thick wall that stands free on the floor, and one or two throws at it."""
    palette = Palette.draw(rng)
    floor = float(rng.uniform(0.4, 0.9))
    face = float(rng.uniform(6.4, 8.2))
    top = floor + float(rng.uniform(4.5, 7.5))
    block = Solid(
        rectangle(face, floor, face + float(rng.uniform(0.6, 1.2)), top), palette.solid(), "wall"
    )
    things = []
    for number in range(int(rng.integers(1, 3))):
        things.append(
            thing(
                rng,
                palette,
                (WALL + 1.1 + 0.2 * number, float(rng.uniform(1.0, 2.4)) + floor + 2.6 * number),
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
        (*room(palette, floor), block),
        palette.backdrop(),
        rim=palette.rim,
        shows=_hit,
    )
    return scene.mirrored() if rng.random() < 0.5 else scene


def _hit(seen: Trajectory) -> bool:
    """The first thing met the wall with some speed in the first two seconds."""
    return any(
        {c.a, c.b} == {"thing 0", "wall"} and c.time < 2 and c.speed > 2 for c in seen.contacts
    )
