"""A heavy thing falls on one end of a plank and flings up what rests on the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.physics.scene import RigidBody, Scene, StaticPolygon, Trajectory
from orchestrator.physics.scenes.common import (
    Palette,
    bottom_offset,
    box_vertices,
    floor_and_walls,
    sample_body,
)

PLANK_THICKNESS = 0.26


def build(rng: np.random.Generator) -> Scene:
    """A plank on a fulcrum, a light thing on its low end, a heavier one above the high end."""
    palette = Palette.sample(rng)
    floor = float(rng.uniform(0.4, 0.9))
    height = float(rng.uniform(0.9, 1.5))
    half = float(rng.uniform(2.6, 3.2))
    middle = float(rng.uniform(4.6, 5.4))
    pivot = (middle, floor + height)
    # The low (left) end touches the floor with its under side.
    tilt = float(np.arcsin((height - PLANK_THICKNESS / 2) / half)) * 0.97
    plank = RigidBody(
        "plank",
        size=half,
        mass=float(rng.uniform(1.0, 2.0)),
        pose=(*pivot, tilt),
        colour=palette.static_colour(),
        mark_colour=palette.mark_colour(),
        restitution=0.1,
        friction=0.9,
        corners=box_vertices(2 * half, PLANK_THICKNESS),
        role="plank",
    )
    light = sample_body(
        rng,
        palette,
        (0.0, 0.0),
        shapes=("box", "triangle"),
        size=(0.45, 0.65),
        friction=(0.8, 0.95),
        restitution=(0.5, 0.8),
        angle=tilt,
        role="target",
    )
    light = _place_on_plank(replace(light, mass=float(rng.uniform(0.5, 1.2))), plank, 0.55 - half)
    heavy = sample_body(
        rng,
        palette,
        (middle + half * float(rng.uniform(0.72, 0.88)), float(rng.uniform(6.5, 8.6))),
        size=(0.6, 0.85),
        restitution=(0.3, 0.6),
        friction=(0.3, 0.8),
    )
    heavy = replace(heavy, mass=float(rng.uniform(2.5, 6.0)))
    under = height - PLANK_THICKNESS / 2
    fulcrum = StaticPolygon(
        np.array([[middle - 0.55, floor], [middle + 0.55, floor], [middle, floor + under]]),
        palette.static_colour(),
        "fulcrum",
    )
    scene = Scene(
        "lever",
        (plank, light, heavy),
        (*floor_and_walls(palette, floor), fulcrum),
        palette.sample_background(),
        outline_brightness=palette.outline_brightness,
        pivot_anchors=((0, pivot),),
        ignored_contacts=((0, "fulcrum"),),
        event_occurred=_load_thrown,
    )
    return scene.mirrored() if rng.random() < 0.5 else scene


def _place_on_plank(load: RigidBody, plank: RigidBody, along: float) -> RigidBody:
    """Put `load` on the plank, `along` metres from the pivot."""
    x, y, tilt = plank.pose
    up = PLANK_THICKNESS / 2 + bottom_offset(load) + 0.005
    cos, sin = np.cos(tilt), np.sin(tilt)
    return replace(load, pose=(x + along * cos - up * sin, y + along * sin + up * cos, tilt))


def _load_thrown(seen: Trajectory) -> bool:
    """The light thing rose by more than a metre."""
    height = seen.poses[:, 1, 1]
    return bool(height.max() > height[0] + 1.0)
