"""Pucks on a table seen from above: no gravity in the picture, impacts pass motion on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orchestrator.physics.scene import (
    VIEW_METERS,
    RigidBody,
    Scene,
    StaticPolygon,
    Trajectory,
    rectangle_vertices,
)
from orchestrator.physics.scenes.common import Palette, sample_body


def build(rng: np.random.Generator) -> Scene:
    """Two to five pucks inside four rails, the first two on their way to each other."""
    palette = Palette.sample(rng)
    rail = float(rng.uniform(0.5, 0.9))
    spots = _sample_positions(rng, int(rng.integers(2, 6)), rail + 1.0)
    pucks: list[RigidBody] = []
    for number, spot in enumerate(spots):
        speed, heading = 0.0, 0.0
        if number < 2:
            away = spots[1 - number] - spot
            speed = float(rng.uniform(1.5, 4.5))
            heading = float(np.arctan2(away[1], away[0]) + rng.uniform(-0.12, 0.12))
        elif rng.random() < 0.5:
            speed, heading = float(rng.uniform(0.5, 3.0)), float(rng.uniform(0, 2 * np.pi))
        pucks.append(
            sample_body(
                rng,
                palette,
                (float(spot[0]), float(spot[1])),
                shapes=("ball", "ball", "ball", "box", "hexagon"),
                size=(0.5, 0.85),
                velocity=(
                    speed * float(np.cos(heading)),
                    speed * float(np.sin(heading)),
                    float(rng.uniform(-1.5, 1.5)) if speed else 0.0,
                ),
                restitution=(0.85, 0.97),
                friction=(0.05, 0.4),
                angle=float(rng.uniform(-np.pi, np.pi)),
                role="mover" if speed else "target",
            )
        )
    return Scene(
        "collision",
        tuple(pucks),
        table_rails(palette, rail),
        palette.sample_background(),
        outline_brightness=palette.outline_brightness,
        gravity=0.0,
        event_occurred=_pucks_collided,
    )


def _sample_positions(
    rng: np.random.Generator, count: int, margin: float
) -> list[npt.NDArray[np.float64]]:
    """Places at least two metres from each other, the first two far apart."""
    low, high = margin, VIEW_METERS - margin
    spots = [rng.uniform([low, low], [3.5, high]), rng.uniform([6.5, low], [high, high])]
    while len(spots) < count:
        spot = rng.uniform(low, high, 2)
        if min(np.linalg.norm(spot - other) for other in spots) > 2.0:
            spots.append(spot)
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    return [spots[order[0]], spots[order[1]], *spots[2:]]


def table_rails(palette: Palette, rail: float) -> tuple[StaticPolygon, ...]:
    colour = palette.static_colour()
    low, high = -5.0, VIEW_METERS + 5.0
    return (
        StaticPolygon(rectangle_vertices(low, low, high, rail), colour, "near rail", friction=0.3),
        StaticPolygon(
            rectangle_vertices(low, VIEW_METERS - rail, high, high),
            colour,
            "far rail",
            friction=0.3,
        ),
        StaticPolygon(rectangle_vertices(low, low, rail, high), colour, "left rail", friction=0.3),
        StaticPolygon(
            rectangle_vertices(VIEW_METERS - rail, low, high, high),
            colour,
            "right rail",
            friction=0.3,
        ),
    )


def _pucks_collided(seen: Trajectory) -> bool:
    """Two pucks met within the first three seconds."""
    return any(
        c.time < 3 and c.a.startswith("thing") and c.b.startswith("thing") for c in seen.contacts
    )
