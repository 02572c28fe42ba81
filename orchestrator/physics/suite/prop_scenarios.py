"""Scenarios whose contexts differ in a piece of scenery: support, bounce, ramp, launch.

Either outcome is one motion, drawn in both sceneries. Where only the impossible cell has a thing
pass in front of that piece, `ScenarioSampler.sample_background_and_prop_colour` has it stand out
more there in one half of a suite; before the wall of `bounce`, as much as before the backdrop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.physics.scene import (
    VIEW_METERS,
    Background,
    RigidBody,
    Scene,
    StaticPolygon,
    rectangle_vertices,
)
from orchestrator.physics.scenes.common import WALL_THICKNESS, bottom_offset, floor_and_walls
from orchestrator.physics.simulation import simulate_motion
from orchestrator.physics.suite.scenario import (
    ScenarioDraft,
    ScenarioSampler,
    same_in_both_contexts,
)

SEAM_OVERLAP = 0.05  # metres by which pieces of one shelf overlap, so that no seam is seen


def support(lab: ScenarioSampler) -> ScenarioDraft | None:
    """A thing moves along a shelf. Context: the shelf ends or goes on; outcome: it falls or not."""
    floor = lab.uniform(0.4, 0.9)
    height = floor + lab.uniform(3.0, 5.0)
    x, speed = lab.uniform(1.1, 2.2), lab.uniform(1.6, 2.0) * lab.speed_factor
    end = x + speed * lab.sample_time(1.05, 1.35)
    thick = lab.uniform(0.18, 0.24)
    mover = lab.place_on_ground(
        lab.sample_body(shapes=("ball", "ball", "ball", "box")), x, height, speed
    )
    backdrop, colour = lab.sample_background_and_prop_colour()
    if not lab.has_counterbalanced_contrast(mover, colour, backdrop):
        return None
    near = StaticPolygon(
        rectangle_vertices(WALL_THICKNESS, height - thick, end, height), colour, "shelf"
    )
    far = StaticPolygon(
        rectangle_vertices(
            end - SEAM_OVERLAP, height - thick, VIEW_METERS - WALL_THICKNESS, height
        ),
        colour,
        "shelf",
    )
    solids = (*floor_and_walls(lab.palette, floor), near)
    middle = ((end + VIEW_METERS - WALL_THICKNESS) / 2, height - thick / 2)
    return _prop_draft(lab, (mover,), backdrop, (solids, (*solids, far)), (None, middle))


def bounce(lab: ScenarioSampler) -> ScenarioDraft | None:
    """A thing moves towards a wall, or towards where none is; it comes back or goes on."""
    floor = lab.uniform(0.4, 0.9)
    face, thick = lab.uniform(5.0, 6.4), lab.uniform(0.4, 0.8)
    made, x, lob = lab.sample_body(), lab.uniform(1.1, 1.6), lab.rng.random() < 0.4
    time = lab.sample_time(1.05, 1.35)
    mover = lab.place_on_ground(made, x, floor, (face - half_width(made) - x) / time)
    top = floor + lab.uniform(1.8, 3.5)
    if lob:
        start, meeting = floor + lab.uniform(1.0, 3.0), floor + lab.uniform(1.5, 3.5)
        up = (meeting - start) / time + lab.gravity * time / 2
        spin = lab.uniform(-2.0, 2.0)
        pose, velocity = (x, start, 0.0), (mover.velocity[0], up, spin)
        mover, top = replace(mover, pose=pose, velocity=velocity), meeting + lab.uniform(1.5, 3.0)
    backdrop = lab.palette.sample_background()
    colour = lab.equal_contrast_colour(mover, backdrop)
    if colour is None:
        return None
    block = StaticPolygon(rectangle_vertices(face, floor, face + thick, top), colour, "wall")
    solids = tuple(floor_and_walls(lab.palette, floor))
    middle = (face + thick / 2, (floor + top) / 2)
    return _prop_draft(lab, (mover,), backdrop, ((*solids, block), solids), (middle, None))


def ramp(lab: ScenarioSampler) -> ScenarioDraft | None:
    """A ball drops on a wedge. Context: which way it slopes; outcome: which way the ball goes."""
    floor, top = lab.uniform(0.4, 0.9), lab.uniform(1.6, 2.4)
    x, half = lab.uniform(4.6, 5.4), lab.uniform(1.1, 1.4)
    rise = 2 * half * float(np.tan(np.radians(lab.uniform(15, 22))))
    ball = lab.sample_body(shapes=("ball",), restitution=(0.45, 0.6))
    height = top + rise / 2 + ball.size + lab.gravity / 2 * lab.sample_time(0.95, 1.1) ** 2
    if (
        height > VIEW_METERS + 1.5
    ):  # on its way already when the video begins, it must come into view
        return None
    ball = replace(ball, pose=(x, height, lab.uniform(-3, 3)), friction=lab.uniform(0.05, 0.2))
    backdrop, colour = lab.sample_background_and_prop_colour()
    if not lab.has_counterbalanced_contrast(ball, colour, backdrop):
        return None
    pillar = StaticPolygon(rectangle_vertices(x - half, floor, x + half, top), colour, "pillar")
    left, right, peak = [x - half, top - SEAM_OVERLAP], [x + half, top - SEAM_OVERLAP], top + rise
    solids = (*floor_and_walls(lab.palette, floor), pillar)
    wedges = (
        StaticPolygon(np.array([left, right, [x - half, peak]]), colour, "wedge"),
        StaticPolygon(np.array([left, right, [x + half, peak]]), colour, "wedge"),
    )
    low = top + rise / 3
    return _prop_draft(
        lab,
        (ball,),
        backdrop,
        ((*solids, wedges[0]), (*solids, wedges[1])),
        ((x - half / 3, low), (x + half / 3, low)),
        apart=True,
    )


def launch(lab: ScenarioSampler) -> ScenarioDraft | None:
    """A striker comes up to a thing at rest. Context: a post between them, or none.

    Outcome 0: the thing at rest is set going. Outcome 1: the striker comes back.
    """
    floor = lab.uniform(0.4, 0.9)
    start, waiting = (
        lab.sample_body(size=(0.5, 0.65)),
        lab.sample_body(size=(0.5, 0.65), role="target"),
    )
    thick = lab.uniform(0.26, 0.36)
    x, face = lab.uniform(1.1, 1.5), lab.uniform(4.8, 5.8)
    speed = (face - half_width(start) - x) / lab.sample_time(1.05, 1.3)
    striker = replace(lab.place_on_ground(start, x, floor, speed), mass=2.0)
    target = lab.place_on_ground(waiting, face + thick + 0.02 + half_width(waiting), floor)
    target = replace(target, mass=lab.uniform(1.6, 2.2), friction=min(0.05, target.friction))
    top = floor + max(bottom_offset(striker), bottom_offset(target)) * lab.uniform(2.0, 3.2)
    backdrop, colour = lab.sample_background_and_prop_colour()
    post = StaticPolygon(rectangle_vertices(face, floor, face + thick, top), colour, "post")
    if not (
        lab.has_counterbalanced_contrast(striker, colour, backdrop)
        and lab.has_counterbalanced_contrast(target, colour, backdrop)
    ):
        return None
    solids = tuple(floor_and_walls(lab.palette, floor))
    middle = (face + thick / 2, (floor + top) / 2)
    pair = (striker, target)
    return _prop_draft(lab, pair, backdrop, (solids, (*solids, post)), (None, middle))


def half_width(made: RigidBody) -> float:
    return made.size if made.corners is None else float(made.corners[:, 0].max())


def _prop_draft(
    lab: ScenarioSampler,
    things: tuple[RigidBody, ...],
    backdrop: Background,
    solids: tuple[tuple[StaticPolygon, ...], tuple[StaticPolygon, ...]],
    props: tuple[tuple[float, float] | None, tuple[float, float] | None],
    apart: bool = False,
) -> ScenarioDraft:
    first, second = (
        Scene("suite", things, some, backdrop, lab.palette.outline_brightness, gravity=lab.gravity)
        for some in solids
    )
    runs = same_in_both_contexts(
        *(simulate_motion(scene, lab.frames, lab.fps) for scene in (first, second))
    )
    return ScenarioDraft(
        (first, second), runs, break_is_occluded=False, prop_centers=props, avoid_prop_overlap=apart
    )
