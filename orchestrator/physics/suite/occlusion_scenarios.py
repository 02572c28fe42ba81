"""Scenarios in which what matters is behind a screen at the break.

All that is seen at the break is the same in both contexts, so the cells are cut and joined from
the two possible videos: what follows the break is bit-equal within a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from orchestrator.physics.scene import (
    VIEW_METERS,
    Colour,
    Occluder,
    RigidBody,
    Scene,
    StaticPolygon,
)
from orchestrator.physics.scenes.common import (
    bottom_offset,
    box_vertices,
    floor_and_walls,
    regular_polygon,
)
from orchestrator.physics.simulation import simulate_motion
from orchestrator.physics.suite.scenario import (
    ScenarioDraft,
    ScenarioSampler,
    floor_without_walls,
    same_in_both_contexts,
)

Bodies = tuple[RigidBody, ...]


def permanence(lab: ScenarioSampler) -> ScenarioDraft | None:
    """A thing goes behind the left or the right of two screens, and comes out of one of them."""
    floor, colour = lab.uniform(0.4, 1.0), lab.palette.occluder_colour()
    inner, width, height = lab.uniform(1.1, 1.4), lab.uniform(1.75, 1.9), lab.uniform(2.4, 4.5)
    screens = tuple(
        _standing_occluder(5 + side * (inner + width / 2), width, floor, height, colour)
        for side in (-1, 1)
    )
    mover = lab.sample_body(size=(0.42, 0.5))
    speed = lab.uniform(1.7, 2.1) * lab.speed_factor
    left, right = ((lab.place_on_ground(mover, 5.0, floor, way * speed),) for way in (-1, 1))
    return _occlusion_draft(lab, (left, right), floor_and_walls(lab.palette, floor), screens)


def continuity(lab: ScenarioSampler) -> ScenarioDraft | None:
    """A thing passes behind two screens; what was not yet in the gap cannot come out beyond it.

    Context 0: it was seen in the gap and is behind the second screen. Context 1: it follows later
    and is behind the first. Outcome 0: it comes out of the second; outcome 1: into the gap.
    """
    floor, colour = lab.uniform(0.4, 1.0), lab.palette.occluder_colour()
    width, gap = lab.uniform(2.2, 2.4), lab.uniform(1.3, 1.5)
    first, height = lab.uniform(2.9, 3.1), lab.uniform(2.0, 4.5)
    pitch = width + gap
    screens = tuple(
        _standing_occluder(centre, width, floor, height, colour)
        for centre in (first, first + pitch)
    )
    mover = lab.sample_body(size=(0.4, 0.5))
    speed = lab.uniform(3.2, 3.7) * lab.speed_factor
    start = lab.uniform(0.7, 0.9) + 0.2 * (lab.speed_factor - 1)
    ahead = lab.place_on_ground(mover, start, floor, speed)
    x, y, angle = ahead.pose
    behind = replace(ahead, pose=(x - pitch, y, angle))
    draft = _occlusion_draft(
        lab, ((ahead,), (behind,)), floor_without_walls(lab.palette, floor), screens
    )
    return replace(draft, earliest_break_s=(screens[1].left + mover.size - start) / speed)


def colour(lab: ScenarioSampler) -> ScenarioDraft | None:
    """A thing of one colour goes behind a screen; one of that or of another comes out."""
    first = lab.sample_body()
    second = replace(first, colour=lab.palette.body_colour())
    return _identity_draft(lab, first, second)


def shape(lab: ScenarioSampler) -> ScenarioDraft | None:
    """A thing of one shape goes behind a screen; one of that or of another comes out."""
    first = replace(lab.sample_body(shapes=("ball",), size=(0.55, 0.7)), marking="stripe")
    # Shapes of about the same area, so that neither is told by its size.
    others = {"box": box_vertices(1.77, 1.77), "triangle": regular_polygon(3, 1.5)}
    if lab.ood:
        others = {
            "slab": box_vertices(2.5, 1.2),
            "kite": np.array([[-1.25, 0], [0, -1.25], [1.25, 0]]),
        }
        others["kite"] = np.concatenate([others["kite"], [[0, 1.25]]])
    name = str(lab.rng.choice(list(others)))
    corners = others[name] * first.size
    size = float(np.linalg.norm(corners, axis=1).max())
    return _identity_draft(lab, first, replace(first, shape=name, corners=corners, size=size))


def _identity_draft(
    lab: ScenarioSampler, first: RigidBody, second: RigidBody
) -> ScenarioDraft | None:
    """Either thing passes one screen at the same speed."""
    floor = lab.uniform(0.4, 1.0)
    x, speed = lab.uniform(1.2, 1.6), lab.uniform(2.6, 3.1) * lab.speed_factor
    width = lab.uniform(2.5, 2.7)
    screen = _standing_occluder(
        lab.uniform(4.8, 5.2), width, floor, lab.uniform(2.4, 5.0), lab.palette.occluder_colour()
    )
    passers = (
        (lab.place_on_ground(first, x, floor, speed),),
        (lab.place_on_ground(second, x, floor, speed),),
    )
    draft = _occlusion_draft(lab, passers, floor_and_walls(lab.palette, floor), (screen,))
    return replace(draft, object_per_context=True)


def inertia(lab: ScenarioSampler) -> ScenarioDraft | None:
    """Seen from above, a puck passes behind a screen; it comes out on its line or on another.

    Context 0: its line is level. Context 1: it slants, from farther out on the same side to the
    other side; so nearness to the place where a puck was last seen speaks for the level line.
    """
    solids, middle = lab.sample_table_rails(), lab.uniform(4.9, 5.1)
    up = 1 if lab.counterbalance else -1
    half, tall = lab.uniform(1.2, 1.35), lab.uniform(4.8, 5.4)
    screen = Occluder(
        5 - half, middle - tall / 2, 5 + half, middle + tall / 2, lab.palette.occluder_colour()
    )
    puck = lab.sample_body(shapes=("ball", "ball", "box", "hexagon"), size=(0.45, 0.6))
    speed, x = lab.uniform(2.6, 3.0) * lab.speed_factor, lab.uniform(1.2, 1.5)
    beside, slope = lab.uniform(0.5, 0.7), lab.uniform(0.8, 0.9)
    level = replace(puck, pose=(x, middle + up * beside, 0.0), velocity=(speed, 0.0, 0.0))
    slanted = replace(
        puck,
        pose=(x, middle + up * slope * (5 - x), 0.0),
        velocity=(speed, -up * slope * speed, 0.0),
    )
    return _occlusion_draft(lab, ((level,), (slanted,)), solids, (screen,), gravity=0.0)


def fall(lab: ScenarioSampler) -> ScenarioDraft | None:
    """A thing is thrown up behind a high board; it comes back soon and slow, or late and fast.

    Context 0: a fast throw, context 1: a slow one. By the law of free fall the time that it is
    gone is twice its speed at the board's edge over gravity.
    """
    floor, edge = lab.uniform(0.4, 0.8), lab.uniform(4.7, 5.2)
    mover = lab.sample_body(size=(0.45, 0.6), restitution=(0.5, 0.75))
    x, drift = lab.uniform(4.0, 6.0), lab.uniform(-0.3, 0.3)
    board = Occluder(
        max(0.0, x - 2.4),
        edge,
        min(VIEW_METERS, x + 2.4),
        VIEW_METERS + 0.5,
        lab.palette.occluder_colour(),
    )
    throws = []
    for gone in (lab.uniform(1.05, 1.15), lab.uniform(0.65, 0.7)):
        low = floor + bottom_offset(mover) + 0.02
        upwards = np.sqrt((lab.gravity * gone / 2) ** 2 + 2 * lab.gravity * (edge + 0.5 - low))
        throws.append((replace(mover, pose=(x, low, 0.0), velocity=(drift, float(upwards), 0.0)),))
    return _occlusion_draft(
        lab, (throws[0], throws[1]), floor_and_walls(lab.palette, floor), (board,)
    )


def delay(lab: ScenarioSampler) -> ScenarioDraft | None:
    """Seen from above, a puck goes behind a screen; later one of two targets beyond it leaves.

    Context: the puck heads for the near target, level, or from farther out for the other one (see
    `inertia`). It strikes unseen and, being as heavy as the target, stops there.
    """
    solids, up = lab.sample_table_rails(), 1 if lab.counterbalance else -1
    left, width = lab.uniform(3.2, 3.5), lab.uniform(2.5, 2.7)
    screen = Occluder(left, 1.8, left + width, 8.2, lab.palette.occluder_colour())
    shapes, size = ("ball",), (0.5, 0.58)
    striker, target = (
        replace(lab.sample_body(shapes=shapes, size=size), mass=1.0, restitution=1.0, friction=0.0)
        for _ in range(2)
    )
    end = left + width + target.size - 0.12
    lanes = (5 + up * lab.uniform(0.8, 1.0), 5 - up * lab.uniform(1.2, 1.4))
    targets = tuple(replace(target, pose=(end, lane, 0.0), role="target") for lane in lanes)
    x, speed = lab.uniform(1.1, 1.3), lab.uniform(2.6, 3.0) * lab.speed_factor
    contexts = []
    for start, lane in zip((lanes[0], 5 + up * lab.uniform(3.4, 3.6)), lanes, strict=True):
        velocity = (speed, speed * (lane - start) / (end - x), 0.0)
        contexts.append((replace(striker, pose=(x, start, 0.0), velocity=velocity), *targets))
    return _occlusion_draft(lab, (contexts[0], contexts[1]), solids, (screen,), gravity=0.0)


def _standing_occluder(
    centre: float, width: float, floor: float, height: float, paint: Colour
) -> Occluder:
    """A board that stands on the floor."""
    return Occluder(centre - width / 2, floor - 0.12, centre + width / 2, floor + height, paint)


def _occlusion_draft(
    lab: ScenarioSampler,
    things: tuple[Bodies, Bodies],
    solids: Sequence[StaticPolygon],
    screens: tuple[Occluder, ...],
    gravity: float | None = None,
) -> ScenarioDraft:
    """The same place with other things."""
    backdrop = lab.palette.sample_background()
    first, second = (
        Scene(
            "suite",
            some,
            tuple(solids),
            backdrop,
            lab.palette.outline_brightness,
            screens=screens,
            gravity=lab.gravity if gravity is None else gravity,
        )
        for some in things
    )
    runs = same_in_both_contexts(
        *(simulate_motion(scene, lab.frames, lab.fps) for scene in (first, second))
    )
    return ScenarioDraft((first, second), runs, break_is_occluded=True)
