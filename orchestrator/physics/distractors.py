"""What has no part in a scene: bystanders, placed where nothing of it ever passes, and backdrops
that move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from orchestrator.physics.scene import (
    VIEW,
    Backdrop,
    Scene,
    Solid,
    Thing,
    Trajectory,
    half_planes,
    rectangle,
)
from orchestrator.physics.scenes.common import WALL, Palette, foot, thing

TRIES = 12
CELLS = 7  # of a moving texture, across the picture
CONTRAST = 0.35  # of its two colours, in value
DRIFT = (0.6, 1.8)  # cells a second
CLEARANCE = 0.25  # metres
Points = npt.NDArray[np.float64]


def bystanders(rng: np.random.Generator, scene: Scene, seen: Trajectory, most: int) -> Scene | None:
    """A scene of its own with up to `most` bystanders, or None where there is no room.

    They share the picture with `scene` and touch nothing of it: each is placed clear of every
    place that a thing of `scene` visits, of the solids and of the screens.
    """
    palette = Palette(rng, scene.rim > 1, float(rng.random()))
    things: list[Thing] = []
    solids: list[Solid] = []
    strings: list[tuple[int, tuple[float, float]]] = []
    taken: list[tuple[Points, float]] = [
        (seen.poses[:, number, :2], one.size) for number, one in enumerate(scene.things)
    ]
    for _ in range(int(rng.integers(0, most + 1))):
        hangs = scene.gravity > 0 and rng.random() < 0.5
        for _ in range(TRIES):
            extra, anchor, shelf, sweep = _swing(rng, palette) if hangs else _shelf(rng, palette)
            if not _clear(sweep, scene, taken):
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
        strings=tuple(strings),
        screens=(),
        pins=(),
        unmet=(),
    )


def moving_backdrop(rng: np.random.Generator, still: Backdrop, fps: float) -> Backdrop:
    """Two layers of texture that drift in directions of their own, in the still one's hue."""
    first = np.array(still.colours[0])
    # Towards the middle: a pale world gets darker spots, a dark one lighter ones.
    second = first - CONTRAST if first.mean() > 0.5 else first + CONTRAST
    angle, speed = rng.uniform(0, 2 * np.pi, 2), rng.uniform(*DRIFT, 2) / fps
    return Backdrop(
        kind="moving",
        colours=(still.colours[0], tuple(np.clip(second, 0, 1).tolist())),
        grain=rng.random((2, CELLS, CELLS)),
        drift=np.stack([np.cos(angle), np.sin(angle)], axis=1) * speed[:, None],
    )


Candidate = tuple[Thing, tuple[float, float] | None, Solid | None, tuple[Points, float]]


def _shelf(rng: np.random.Generator, palette: Palette) -> Candidate:
    """A thing at rest on a short shelf (on a table seen from above: lying there)."""
    x, y = float(rng.uniform(1.3, VIEW - 1.3)), float(rng.uniform(2.0, VIEW - 1.2))
    extra = thing(rng, palette, (x, y), size=(0.4, 0.6), friction=(0.5, 0.8), role="distractor")
    under = y - foot(extra)
    shelf = Solid(rectangle(x - 0.8, under - 0.18, x + 0.8, under), palette.solid(), "shelf")
    return extra, None, shelf, (np.array([[x - 0.5, y], [x, y], [x + 0.5, y]]), 0.65)


def _swing(rng: np.random.Generator, palette: Palette) -> Candidate:
    """A ball on a string from above the picture's edge."""
    length = float(rng.uniform(1.6, 3.2))
    widest = float(rng.uniform(0.25, 0.6))
    anchor = (float(rng.uniform(1.5, VIEW - 1.5)), VIEW + 0.3)
    arc = np.linspace(-widest, widest, 9)
    path = np.stack([anchor[0] + length * np.sin(arc), anchor[1] - length * np.cos(arc)], axis=1)
    start = path[0 if rng.random() < 0.5 else -1]
    ball = thing(
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


def _clear(sweep: tuple[Points, float], scene: Scene, taken: list[tuple[Points, float]]) -> bool:
    points, reach = sweep
    reach += CLEARANCE
    if (points[:, 0] < WALL + reach).any() or (points[:, 0] > VIEW - WALL - reach).any():
        return False
    blocks = [solid.corners for solid in scene.solids]
    blocks += [rectangle(s.left, s.bottom, s.right, s.top) for s in scene.screens]
    for corners in blocks:
        planes = half_planes(corners)
        if (points @ planes[:, :2].T - planes[:, 2]).max(axis=1).min() < reach:
            return False
    for places, size in taken:
        gap = np.linalg.norm(points[:, None] - places[None, ::2], axis=2).min()
        if gap < reach + size:
            return False
    return True
