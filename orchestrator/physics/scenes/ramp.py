"""Things roll or slide down a slope, across the floor, and often up again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.physics.scene import Scene, StaticPolygon
from orchestrator.physics.scenes.common import (
    WALL_THICKNESS,
    Palette,
    bottom_offset,
    floor_and_walls,
    sample_body,
)


def build(rng: np.random.Generator) -> Scene:
    """A wedge against a wall, one or two things on it, sometimes another in the way below."""
    palette = Palette.sample(rng)
    floor = float(rng.uniform(0.4, 0.9))
    top, end = float(rng.uniform(3.0, 6.5)), float(rng.uniform(5.0, 7.0))
    slope = (top - floor) / (end - WALL_THICKNESS)
    tilt = -float(np.arctan(slope))
    wedge = StaticPolygon(
        np.array([[WALL_THICKNESS, floor], [end, floor], [WALL_THICKNESS, top]]),
        palette.static_colour(),
        "ramp",
    )
    things = []
    for share in [0.12] if rng.random() < 0.5 else [0.12, 0.42]:
        mover = sample_body(
            rng,
            palette,
            (0.0, 0.0),
            shapes=("ball", "ball", "box"),
            friction=(0.3, 0.7),
            restitution=(0.6, 0.9),
            angle=tilt,
        )
        if mover.corners is not None:  # a box slides; with a ball's grip it would stick
            mover = replace(mover, friction=float(rng.uniform(0.01, 0.06)))
        x = WALL_THICKNESS + mover.size + share * (end - WALL_THICKNESS)
        lift = bottom_offset(mover) / np.cos(tilt)
        mover = replace(
            mover, pose=(x, float(top - slope * (x - WALL_THICKNESS) + lift + 0.01), tilt)
        )
        things.append(mover)
    if rng.random() < 0.5:
        block = sample_body(
            rng,
            palette,
            (0.0, 0.0),
            shapes=("ball", "box"),
            friction=(0.02, 0.15),
            restitution=(0.7, 0.95),
            role="target",
        )
        x = float(rng.uniform(end + 0.8, max(end + 0.9, 9.5 - block.size)))
        things.append(replace(block, pose=(x, floor + bottom_offset(block), 0.0)))
    scene = Scene(
        "ramp",
        tuple(things),
        (*floor_and_walls(palette, floor), wedge),
        palette.sample_background(),
        outline_brightness=palette.outline_brightness,
    )
    return scene.mirrored() if rng.random() < 0.5 else scene
