"""A moving thing strikes one at rest and sets it going, by contact only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.physics.scene import Scene, StaticPolygon, Trajectory, rectangle_vertices
from orchestrator.physics.scenes.common import (
    WALL_THICKNESS,
    Palette,
    bottom_offset,
    floor_and_walls,
    sample_body,
)


def build(rng: np.random.Generator) -> Scene:
    """A striker comes in along a ledge or the floor; one or two things wait in its way."""
    palette = Palette.sample(rng)
    floor = float(rng.uniform(0.4, 0.9))
    ledge = rng.random() < 0.6
    ground = floor + float(rng.uniform(1.8, 4.0)) if ledge else floor
    end = float(rng.uniform(5.2, 6.8))
    solids = floor_and_walls(palette, floor)
    if ledge:
        solids.append(
            StaticPolygon(
                rectangle_vertices(WALL_THICKNESS, floor, end, ground),
                palette.static_colour(),
                "ledge",
            )
        )
    striker = sample_body(
        rng,
        palette,
        (0.0, 0.0),
        shapes=("ball", "ball", "box"),
        size=(0.5, 0.8),
        friction=(0.05, 0.2),
        restitution=(0.8, 0.95),
    )
    speed = float(rng.uniform(3.0, 6.0))
    spin = -speed / striker.size
    if striker.corners is not None:
        striker, spin = replace(striker, friction=float(rng.uniform(0.01, 0.04))), 0.0
    striker = replace(
        striker,
        pose=(WALL_THICKNESS + 0.3 + striker.size, ground + bottom_offset(striker) + 0.005, 0.0),
        velocity=(speed, 0.0, spin),
    )
    things = [striker]
    x = end - float(rng.uniform(0.6, 1.6)) if ledge else float(rng.uniform(4.5, 6.0))
    for _ in range(1 if ledge or rng.random() < 0.6 else 2):
        target = sample_body(
            rng,
            palette,
            (0.0, 0.0),
            shapes=("ball", "ball", "box"),
            size=(0.45, 0.8),
            friction=(0.03, 0.12),
            restitution=(0.75, 0.95),
            role="target",
        )
        things.append(replace(target, pose=(x, ground + bottom_offset(target) + 0.005, 0.0)))
        x += float(rng.uniform(1.8, 2.4))
    scene = Scene(
        "launch",
        tuple(things),
        tuple(solids),
        palette.sample_background(),
        outline_brightness=palette.outline_brightness,
        event_occurred=_target_launched,
    )
    return scene.mirrored() if rng.random() < 0.5 else scene


def _target_launched(seen: Trajectory) -> bool:
    """The striker met the first target within two seconds, and that then moved fast."""
    met = [c.time for c in seen.contacts if {c.a, c.b} == {"thing 0", "thing 1"}]
    if not met or met[0] > 2:
        return False
    after = seen.poses[int(met[0] * seen.fps) + 1 :, 1, 3:5]
    return bool(np.linalg.norm(after, axis=1).max() > 1.5)
