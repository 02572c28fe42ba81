"""A plank on a fulcrum with a large and a small load; it goes down on one side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from orchestrator.physics.scene import VIEW_METERS, RigidBody, Scene, StaticPolygon, Trajectory
from orchestrator.physics.scenes.common import bottom_offset, box_vertices, floor_and_walls
from orchestrator.physics.suite.scenario import ScenarioDraft, ScenarioSampler

PLANK_THICKNESS = 0.26
POST_TRAVEL = 0.9  # metres by which a post is drawn away from the plank
# Metres by which the posts' middle is beside the plank's, towards the loads, so that what moved
# last is as far from a load that goes down as from one that goes up.
LOAD_OFFSET = 0.4

Poses = npt.NDArray[np.float64]


def lever(lab: ScenarioSampler) -> ScenarioDraft | None:
    """Context: the large load is left or right; outcome: the left or the right side goes down.

    Two posts hold the plank level until they are drawn aside. The motion is prescribed (the loads
    stay where they are on it), so that either outcome is as large whatever the context.
    """
    # The loads move about the picture's middle, far from the floor, and hang under the plank for
    # one side of the coin: random features tell a load and plank that rise from ones that sink.
    up = -1 if lab.counterbalance else 1
    centre = VIEW_METERS / 2 + lab.uniform(-0.2, 0.2)
    floor, height = lab.uniform(0.4, 0.9), centre - up * LOAD_OFFSET
    half, middle = lab.uniform(2.3, 2.7), lab.uniform(4.8, 5.2)
    pivot = (middle, height)
    large = lab.sample_body(shapes=("box", "triangle"), size=(0.75, 0.9), role="target")
    reach = lab.uniform(0.55, 0.65)
    corners = None if large.corners is None else large.corners * reach
    small = replace(
        large, corners=corners, size=large.size * reach, colour=lab.palette.body_colour()
    )
    loads = (
        replace(large, mass=4 * large.area),
        replace(small, mass=4 * small.area),
    )
    plank = RigidBody(
        "plank",
        half,
        1.0,
        (*pivot, 0.0),
        lab.palette.static_colour(),
        lab.palette.mark_colour(),
        corners=box_vertices(2 * half, PLANK_THICKNESS),
        role="plank",
    )
    tall = 2 * (centre - floor)
    post = RigidBody(
        "post",
        float(np.hypot(0.15, tall / 2)),
        1.0,
        (0.0, floor + tall / 2, 0.0),
        lab.palette.occluder_colour(),
        lab.palette.mark_colour(),
        corners=box_vertices(0.3, tall),
        role="distractor",
    )
    fulcrum = StaticPolygon(
        np.array(
            [[middle - 0.5, floor], [middle + 0.5, floor], [middle, pivot[1] - PLANK_THICKNESS / 2]]
        ),
        lab.palette.static_colour(),
        "fulcrum",
    )
    scene = Scene(
        "suite",
        (plank, *loads, post, post),
        (*floor_and_walls(lab.palette, floor), fulcrum),
        lab.palette.sample_background(),
        lab.palette.outline_brightness,
        gravity=lab.gravity,
    )
    along = half - lab.uniform(0.6, 0.8)
    release = lab.sample_time(1.05, 1.3)
    tilt = _plank_angles(lab, release)
    cells = [
        [
            Trajectory(
                np.stack(
                    [
                        _poses_with_velocities(
                            np.full(lab.frames, middle), pivot[1], sign * tilt, lab.fps
                        ),
                        *_load_poses(loads, up, pivot, side * along, sign * tilt, lab.fps),
                        *_post_poses(lab, middle, half - 0.1, floor + tall / 2, release),
                    ],
                    axis=1,
                ),
                [],
                lab.fps,
            )
            for sign in (1.0, -1.0)
        ]
        for side in (-1.0, 1.0)
    ]
    (a, b), (c, d) = cells
    return ScenarioDraft((scene, scene), ((a, b), (c, d)), break_is_occluded=False)


def _plank_angles(lab: ScenarioSampler, release: float) -> Poses:
    """The plank's angle `[T]` after the release, anticlockwise: ever faster, on its way still."""
    since = np.maximum(np.arange(lab.frames) / lab.fps - release, 0)
    return np.asarray(lab.uniform(0.5, 0.7) * (since / since[-1]) ** 2)


def _poses_with_velocities(x: Poses, y: Poses | float, angle: Poses, fps: float) -> Poses:
    """`[T, 6]` with velocities by differences, as the motion is given and not simulated."""
    place = np.stack([x, np.broadcast_to(y, x.shape), angle], axis=1)
    return np.concatenate([place, np.gradient(place, 1 / fps, axis=0)], axis=1)


def _load_poses(
    loads: tuple[RigidBody, RigidBody],
    up: int,
    pivot: tuple[float, float],
    along: float,
    angle: Poses,
    fps: float,
) -> list[Poses]:
    """The first load `along` metres from the pivot, the second as far on the other side.

    They stand on the plank, or hang from it upside down (`up` is -1).
    """
    poses = []
    for load, place in zip(loads, (along, -along), strict=True):
        off = up * (PLANK_THICKNESS / 2 + bottom_offset(load))
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = pivot[0] + place * cos - off * sin, pivot[1] + place * sin + off * cos
        poses.append(_poses_with_velocities(x, y, angle + (0 if up > 0 else np.pi), fps))
    return poses


def _post_poses(
    lab: ScenarioSampler, middle: float, out: float, height: float, release: float
) -> list[Poses]:
    """Both posts: at the plank's ends, then drawn outwards, clear of it at the release."""
    time = np.arange(lab.frames) / lab.fps
    moved = POST_TRAVEL * np.clip((time - release) / 0.5 + 1, 0, 1)
    still = np.zeros(lab.frames)
    return [
        _poses_with_velocities(middle + side * (out + moved), height, still, lab.fps)
        for side in (-1, 1)
    ]
