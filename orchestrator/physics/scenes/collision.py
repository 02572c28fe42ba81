"""Pucks on a table seen from above: no gravity in the picture, impacts pass motion on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orchestrator.physics.scene import VIEW, Scene, Solid, Thing, Trajectory, rectangle
from orchestrator.physics.scenes.common import Palette, thing


def build(rng: np.random.Generator) -> Scene:
    """Two to five pucks inside four rails, the first two on their way to each other."""
    palette = Palette.draw(rng)
    rail = float(rng.uniform(0.5, 0.9))
    spots = _spots(rng, int(rng.integers(2, 6)), rail + 1.0)
    pucks: list[Thing] = []
    for number, spot in enumerate(spots):
        speed, heading = 0.0, 0.0
        if number < 2:
            away = spots[1 - number] - spot
            speed = float(rng.uniform(1.5, 4.5))
            heading = float(np.arctan2(away[1], away[0]) + rng.uniform(-0.12, 0.12))
        elif rng.random() < 0.5:
            speed, heading = float(rng.uniform(0.5, 3.0)), float(rng.uniform(0, 2 * np.pi))
        pucks.append(
            thing(
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
        _rails(palette, rail),
        palette.backdrop(),
        rim=palette.rim,
        gravity=0.0,
        shows=_met,
    )


def _spots(rng: np.random.Generator, count: int, margin: float) -> list[npt.NDArray[np.float64]]:
    """Places at least two metres from each other, the first two far apart."""
    low, high = margin, VIEW - margin
    spots = [rng.uniform([low, low], [3.5, high]), rng.uniform([6.5, low], [high, high])]
    while len(spots) < count:
        spot = rng.uniform(low, high, 2)
        if min(np.linalg.norm(spot - other) for other in spots) > 2.0:
            spots.append(spot)
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    return [spots[order[0]], spots[order[1]], *spots[2:]]


def _rails(palette: Palette, rail: float) -> tuple[Solid, ...]:
    colour = palette.solid()
    low, high = -5.0, VIEW + 5.0
    return (
        Solid(rectangle(low, low, high, rail), colour, "near rail", friction=0.3),
        Solid(rectangle(low, VIEW - rail, high, high), colour, "far rail", friction=0.3),
        Solid(rectangle(low, low, rail, high), colour, "left rail", friction=0.3),
        Solid(rectangle(VIEW - rail, low, high, high), colour, "right rail", friction=0.3),
    )


def _met(seen: Trajectory) -> bool:
    """Two pucks met within the first three seconds."""
    return any(
        c.time < 3 and c.a.startswith("thing") and c.b.startswith("thing") for c in seen.contacts
    )
