"""Distractors, bodies placed where nothing of the scene passes, and moving backgrounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from orchestrator.physics.scene import (
    VIEW_METERS,
    Background,
    RigidBody,
    Scene,
    StaticPolygon,
    Trajectory,
    edge_half_planes,
    rectangle_vertices,
)
from orchestrator.physics.scenes.common import WALL_THICKNESS, Palette, bottom_offset, sample_body

MAX_PLACEMENTS = 12
TEXTURE_CELLS = 7  # of a moving texture, per image side
TEXTURE_CONTRAST = 0.35  # of its two colours, in value
DRIFT_SPEED = (0.6, 1.8)  # cells per second
CLEARANCE = 0.25  # metres
Points = npt.NDArray[np.float64]


def sample_distractors(
    rng: np.random.Generator, scene: Scene, trajectory: Trajectory, max_count: int
) -> Scene | None:
    """A separate scene with up to `max_count` distractors, or None if none can be placed.

    They share the picture with `scene` and touch nothing of it: each is placed clear of every
    place that a thing of `scene` visits, of the solids and of the screens.
    """
    palette = Palette(rng, scene.outline_brightness > 1, float(rng.random()))
    things: list[RigidBody] = []
    solids: list[StaticPolygon] = []
    strings: list[tuple[int, tuple[float, float]]] = []
    taken: list[tuple[Points, float]] = [
        (trajectory.poses[:, number, :2], one.size) for number, one in enumerate(scene.things)
    ]
    for _ in range(int(rng.integers(0, max_count + 1))):
        hangs = scene.gravity > 0 and rng.random() < 0.5
        for _ in range(MAX_PLACEMENTS):
            extra, anchor, shelf, sweep = (
                _sample_pendulum(rng, palette) if hangs else _sample_on_shelf(rng, palette)
            )
            if not _is_clear(sweep, scene, taken):
                continue
            if anchor is not None:
                strings.append((len(things), anchor))
            if shelf is not None and scene.gravity > 0:
                solids.append(shelf)
            things.append(extra)
            taken.append(sweep)
            break
    if not things:
        return None
    return replace(
        scene,
        things=tuple(things),
        solids=tuple(solids),
        pendulum_anchors=tuple(strings),
        screens=(),
        pivot_anchors=(),
        ignored_contacts=(),
    )


def moving_background(rng: np.random.Generator, static: Background, fps: float) -> Background:
    """Two texture layers that drift in different directions, in the static background's hue."""
    first = np.array(static.colours[0])
    # Contrast goes towards medium: pale backgrounds get darker spots, dark ones lighter.
    second = first - TEXTURE_CONTRAST if first.mean() > 0.5 else first + TEXTURE_CONTRAST
    angle, speed = rng.uniform(0, 2 * np.pi, 2), rng.uniform(*DRIFT_SPEED, 2) / fps
    return Background(
        kind="moving",
        colours=(static.colours[0], tuple(np.clip(second, 0, 1).tolist())),
        texture_grid=rng.random((2, TEXTURE_CELLS, TEXTURE_CELLS)),
        drift_per_frame=np.stack([np.cos(angle), np.sin(angle)], axis=1) * speed[:, None],
    )


DistractorCandidate = tuple[
    RigidBody, tuple[float, float] | None, StaticPolygon | None, tuple[Points, float]
]


def _sample_on_shelf(rng: np.random.Generator, palette: Palette) -> DistractorCandidate:
    """A body at rest on a short shelf (or on the table, in scenes viewed from above)."""
    x, y = float(rng.uniform(1.3, VIEW_METERS - 1.3)), float(rng.uniform(2.0, VIEW_METERS - 1.2))
    extra = sample_body(
        rng, palette, (x, y), size=(0.4, 0.6), friction=(0.5, 0.8), role="distractor"
    )
    under = y - bottom_offset(extra)
    shelf = StaticPolygon(
        rectangle_vertices(x - 0.8, under - 0.18, x + 0.8, under), palette.static_colour(), "shelf"
    )
    return extra, None, shelf, (np.array([[x - 0.5, y], [x, y], [x + 0.5, y]]), 0.65)


def _sample_pendulum(rng: np.random.Generator, palette: Palette) -> DistractorCandidate:
    """A ball on a string that is fixed above the image."""
    length = float(rng.uniform(1.6, 3.2))
    widest = float(rng.uniform(0.25, 0.6))
    anchor = (float(rng.uniform(1.5, VIEW_METERS - 1.5)), VIEW_METERS + 0.3)
    arc = np.linspace(-widest, widest, 9)
    path = np.stack([anchor[0] + length * np.sin(arc), anchor[1] - length * np.cos(arc)], axis=1)
    start = path[0 if rng.random() < 0.5 else -1]
    ball = sample_body(
        rng,
        palette,
        (float(start[0]), float(start[1])),
        shapes=("ball",),
        size=(0.35, 0.55),
        role="distractor",
    )
    along = np.linspace(0.3, 1.0, 4)[:, None, None]
    sweep = (np.array(anchor) + along * (path - np.array(anchor))).reshape(-1, 2)
    return ball, anchor, None, (sweep, ball.size)


def _is_clear(sweep: tuple[Points, float], scene: Scene, taken: list[tuple[Points, float]]) -> bool:
    points, reach = sweep
    reach += CLEARANCE
    if (points[:, 0] < WALL_THICKNESS + reach).any() or (
        points[:, 0] > VIEW_METERS - WALL_THICKNESS - reach
    ).any():
        return False
    blocks = [solid.vertices for solid in scene.solids]
    blocks += [rectangle_vertices(s.left, s.bottom, s.right, s.top) for s in scene.screens]
    for corners in blocks:
        planes = edge_half_planes(corners)
        if (points @ planes[:, :2].T - planes[:, 2]).max(axis=1).min() < reach:
            return False
    for places, size in taken:
        gap = np.linalg.norm(points[:, None] - places[None, ::2], axis=2).min()
        if gap < reach + size:
            return False
    return True
