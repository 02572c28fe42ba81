"""Scenarios whose contexts differ in a piece of scenery: support, bounce, ramp, launch.

Either outcome is one motion, drawn in both sceneries. Where only the impossible cell has a thing
pass in front of that piece, `Lab.setting` has it stand out more there in one half of a suite;
before the wall of `bounce`, as much as before the backdrop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.physics.scene import VIEW, Backdrop, Scene, Solid, Thing, rectangle
from orchestrator.physics.scenes.common import WALL, foot, room
from orchestrator.physics.simulation import run
from orchestrator.physics.suite.scenario import Draft, Lab, by_outcome

EDGE = 0.05  # metres by which pieces of one shelf overlap, so that no seam is seen


def support(lab: Lab) -> Draft | None:
    """A thing moves along a shelf. Context: the shelf ends or goes on; outcome: it falls or not."""
    floor = lab.uniform(0.4, 0.9)
    height = floor + lab.uniform(3.0, 5.0)
    x, speed = lab.uniform(1.1, 2.2), lab.uniform(1.6, 2.0) * lab.pace
    end = x + speed * lab.seconds(1.05, 1.35)
    thick = lab.uniform(0.18, 0.24)
    mover = lab.on(lab.body(shapes=("ball", "ball", "ball", "box")), x, height, speed)
    backdrop, colour = lab.setting()
    if not lab.balances(mover, colour, backdrop):
        return None
    near = Solid(rectangle(WALL, height - thick, end, height), colour, "shelf")
    far = Solid(rectangle(end - EDGE, height - thick, VIEW - WALL, height), colour, "shelf")
    solids = (*room(lab.palette, floor), near)
    middle = ((end + VIEW - WALL) / 2, height - thick / 2)
    return _drawn(lab, (mover,), backdrop, (solids, (*solids, far)), (None, middle))


def bounce(lab: Lab) -> Draft | None:
    """A thing moves towards a wall, or towards where none is; it comes back or goes on."""
    floor = lab.uniform(0.4, 0.9)
    face, thick = lab.uniform(5.0, 6.4), lab.uniform(0.4, 0.8)
    made, x, lob = lab.body(), lab.uniform(1.1, 1.6), lab.rng.random() < 0.4
    time = lab.seconds(1.05, 1.35)
    mover = lab.on(made, x, floor, (face - _half_width(made) - x) / time)
    top = floor + lab.uniform(1.8, 3.5)
    if lob:
        start, meeting = floor + lab.uniform(1.0, 3.0), floor + lab.uniform(1.5, 3.5)
        up = (meeting - start) / time + lab.gravity * time / 2
        spin = lab.uniform(-2.0, 2.0)
        pose, velocity = (x, start, 0.0), (mover.velocity[0], up, spin)
        mover, top = replace(mover, pose=pose, velocity=velocity), meeting + lab.uniform(1.5, 3.0)
    backdrop = lab.palette.backdrop()
    colour = lab.alike(mover, backdrop)
    if colour is None:
        return None
    block = Solid(rectangle(face, floor, face + thick, top), colour, "wall")
    solids = tuple(room(lab.palette, floor))
    middle = (face + thick / 2, (floor + top) / 2)
    return _drawn(lab, (mover,), backdrop, ((*solids, block), solids), (middle, None))


def ramp(lab: Lab) -> Draft | None:
    """A ball drops on a wedge. Context: which way it slopes; outcome: which way the ball goes."""
    floor, top = lab.uniform(0.4, 0.9), lab.uniform(1.6, 2.4)
    x, half = lab.uniform(4.6, 5.4), lab.uniform(1.1, 1.4)
    rise = 2 * half * float(np.tan(np.radians(lab.uniform(15, 22))))
    ball = lab.body(shapes=("ball",), restitution=(0.45, 0.6))
    height = top + rise / 2 + ball.size + lab.gravity / 2 * lab.seconds(0.95, 1.1) ** 2
    if height > VIEW + 1.5:  # on its way already when the video begins, it must come into view
        return None
    ball = replace(ball, pose=(x, height, lab.uniform(-3, 3)), friction=lab.uniform(0.05, 0.2))
    backdrop, colour = lab.setting()
    if not lab.balances(ball, colour, backdrop):
        return None
    pillar = Solid(rectangle(x - half, floor, x + half, top), colour, "pillar")
    left, right, peak = [x - half, top - EDGE], [x + half, top - EDGE], top + rise
    solids = (*room(lab.palette, floor), pillar)
    wedges = (
        Solid(np.array([left, right, [x - half, peak]]), colour, "wedge"),
        Solid(np.array([left, right, [x + half, peak]]), colour, "wedge"),
    )
    low = top + rise / 3
    return _drawn(
        lab,
        (ball,),
        backdrop,
        ((*solids, wedges[0]), (*solids, wedges[1])),
        ((x - half / 3, low), (x + half / 3, low)),
        apart=True,
    )


def launch(lab: Lab) -> Draft | None:
    """A striker comes up to a thing at rest. Context: a post between them, or none.

    Outcome 0: the thing at rest is set going. Outcome 1: the striker comes back.
    """
    floor = lab.uniform(0.4, 0.9)
    start, waiting = lab.body(size=(0.5, 0.65)), lab.body(size=(0.5, 0.65), role="target")
    thick = lab.uniform(0.26, 0.36)
    x, face = lab.uniform(1.1, 1.5), lab.uniform(4.8, 5.8)
    speed = (face - _half_width(start) - x) / lab.seconds(1.05, 1.3)
    striker = replace(lab.on(start, x, floor, speed), mass=2.0)
    target = lab.on(waiting, face + thick + 0.02 + _half_width(waiting), floor)
    target = replace(target, mass=lab.uniform(1.6, 2.2), friction=min(0.05, target.friction))
    top = floor + max(foot(striker), foot(target)) * lab.uniform(2.0, 3.2)
    backdrop, colour = lab.setting()
    post = Solid(rectangle(face, floor, face + thick, top), colour, "post")
    if not (lab.balances(striker, colour, backdrop) and lab.balances(target, colour, backdrop)):
        return None
    solids = tuple(room(lab.palette, floor))
    middle = (face + thick / 2, (floor + top) / 2)
    pair = (striker, target)
    return _drawn(lab, pair, backdrop, (solids, (*solids, post)), (None, middle))


def _half_width(made: Thing) -> float:
    return made.size if made.corners is None else float(made.corners[:, 0].max())


def _drawn(
    lab: Lab,
    things: tuple[Thing, ...],
    backdrop: Backdrop,
    solids: tuple[tuple[Solid, ...], tuple[Solid, ...]],
    props: tuple[tuple[float, float] | None, tuple[float, float] | None],
    apart: bool = False,
) -> Draft:
    first, second = (
        Scene("suite", things, some, backdrop, lab.palette.rim, gravity=lab.gravity)
        for some in solids
    )
    runs = by_outcome(*(run(scene, lab.frames, lab.fps) for scene in (first, second)))
    return Draft((first, second), runs, hidden=False, props=props, apart=apart)
