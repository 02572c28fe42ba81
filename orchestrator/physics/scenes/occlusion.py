"""Things pass behind a screen: hidden, they go on to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.physics.scene import Occluder, RigidBody, Scene, Trajectory
from orchestrator.physics.scenes.common import Palette, bottom_offset, floor_and_walls, sample_body


def build(rng: np.random.Generator) -> Scene:
    """Rolling, sliding or hopping things and one screen, two screens, or a hanging board."""
    palette = Palette.sample(rng)
    floor = float(rng.uniform(0.4, 1.2))
    hang = rng.random() < 0.3
    screens = (
        _hanging_occluder(rng, palette, floor) if hang else _standing_occluders(rng, palette, floor)
    )
    sides = [(1.3, 1), (8.7, -1)] if rng.random() < 0.5 else [(8.7, -1), (1.3, 1)]
    count = 2 if rng.random() < 0.45 else 1
    things = [_moving_body(rng, palette, floor, x, way, hang) for x, way in sides[:count]]
    return Scene(
        "occlusion",
        tuple(things),
        tuple(floor_and_walls(palette, floor)),
        palette.sample_background(),
        outline_brightness=palette.outline_brightness,
        screens=screens,
        event_occurred=lambda seen: _was_occluded(seen, screens, things),
    )


def _standing_occluders(
    rng: np.random.Generator, palette: Palette, floor: float
) -> tuple[Occluder, ...]:
    """One or two boards that stand on the floor."""
    colour = palette.occluder_colour()
    centres = [float(rng.uniform(3.8, 6.2))]
    if rng.random() < 0.4:
        centres = [3.45 + float(rng.uniform(-0.2, 0.2)), 6.65 + float(rng.uniform(-0.2, 0.2))]
    boards = []
    for centre in centres:
        half = float(rng.uniform(1.2, 1.8) if len(centres) == 1 else rng.uniform(1.0, 1.15))
        top = floor + float(rng.uniform(2.6, 5.0))
        boards.append(Occluder(centre - half, floor - 0.12, centre + half, top, colour))
    return tuple(boards)


def _hanging_occluder(
    rng: np.random.Generator, palette: Palette, floor: float
) -> tuple[Occluder, ...]:
    """A board across the room at mid height: hopping things vanish behind it and come down."""
    bottom = floor + float(rng.uniform(2.0, 2.6))
    return (
        Occluder(
            1.6, bottom, 8.4, bottom + float(rng.uniform(1.9, 2.4)), palette.occluder_colour()
        ),
    )


def _moving_body(
    rng: np.random.Generator, palette: Palette, floor: float, x: float, way: int, hang: bool
) -> RigidBody:
    """A thing near one wall on its way to the other."""
    hops = hang or rng.random() < 0.25
    mover = sample_body(
        rng,
        palette,
        (x, 0.0),
        shapes=("ball", "ball", "hexagon", "box") if hops else ("ball", "ball", "box"),
        size=(0.45, 0.7) if hang else (0.5, 0.75),
        restitution=(0.85, 0.95) if hops else (0.6, 0.9),
        friction=(0.05, 0.3),
    )
    speed = float(rng.uniform(1.6, 4.0)) * way
    spin = -speed / mover.size if mover.corners is None else 0.0
    if mover.corners is not None and not hops:
        mover = replace(mover, friction=float(rng.uniform(0.01, 0.04)))
    height = floor + bottom_offset(mover) + 0.005
    if hops:
        height, spin = floor + float(rng.uniform(6.5, 7.8) if hang else rng.uniform(2.5, 5.0)), 0.0
        speed *= 0.5 if hang else 0.8
    return replace(mover, pose=(x, height, 0.0), velocity=(speed, 0.0, spin))


def _was_occluded(seen: Trajectory, screens: tuple[Occluder, ...], things: list[RigidBody]) -> bool:
    """The first thing was wholly hidden for a while, and in the open before and after."""
    x, y, reach = seen.poses[:, 0, 0], seen.poses[:, 0, 1], things[0].size
    hidden, apart = np.zeros(len(x), bool), np.ones(len(x), bool)
    for s in screens:
        hidden |= (
            (x - reach > s.left)
            & (x + reach < s.right)
            & (y + reach < s.top)
            & (y - reach > s.bottom - 0.3)
        )
        apart &= (
            (x + reach < s.left)
            | (x - reach > s.right)
            | (y - reach > s.top)
            | (y + reach < s.bottom)
        )
    if hidden.sum() < 0.08 * seen.fps:
        return False
    first, last = int(np.argmax(hidden)), int(len(hidden) - np.argmax(hidden[::-1]))
    return bool(apart[:first].any() and apart[first:].any() and last > 0)
