"""What several families share: colours, a room with walls, things of random make."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.physics.scene import (
    VIEW_METERS,
    Background,
    Colour,
    RigidBody,
    StaticPolygon,
    rectangle_vertices,
)

GOLDEN_RATIO = 0.618034
WALL_THICKNESS = 0.35  # metres of side wall that are in the picture
# An oblique impact of a corner with friction gains energy under Newton's law of restitution
# (Kane's paradox) unless the restitution is well below 1.
MAX_POLYGON_RESTITUTION = 0.78
WALL_OVERHANG = 6.0  # metres by which walls go on beyond the picture: nothing flies over or through


@dataclass
class Palette:
    """Colours of one scene: a pale or a dark world, strong hues for what moves."""

    rng: np.random.Generator
    dark: bool
    hue: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Palette:
        """A new palette."""
        return cls(rng, bool(rng.random() < 0.4), float(rng.random()))

    def body_colour(self) -> Colour:
        """A strong colour; each call is far in hue from the one before."""
        self.hue = (self.hue + GOLDEN_RATIO) % 1.0
        saturation = self.rng.uniform(0.7, 0.95)
        value = self.rng.uniform(0.85, 1.0) if self.dark else self.rng.uniform(0.6, 0.9)
        return colorsys.hsv_to_rgb(self.hue, saturation, value)

    def mark_colour(self) -> Colour:
        """Nearly white, or now and then nearly black."""
        value = 0.97 if self.rng.random() < 0.75 else 0.12
        return (value, value, value)

    def static_colour(self) -> Colour:
        """Floors and walls: dull, and clearly apart from the backdrop."""
        value = self.rng.uniform(0.5, 0.62) if self.dark else self.rng.uniform(0.35, 0.5)
        return colorsys.hsv_to_rgb(self.rng.random(), self.rng.uniform(0.05, 0.3), value)

    def occluder_colour(self) -> Colour:
        """Boards in front: a middle tone that no thing has."""
        value = self.rng.uniform(0.6, 0.75) if self.dark else self.rng.uniform(0.5, 0.7)
        return colorsys.hsv_to_rgb(self.rng.random(), self.rng.uniform(0.2, 0.4), value)

    def sample_background(self) -> Background:
        """Plain, a gradient, or a mild texture."""
        rng = self.rng
        value = rng.uniform(0.1, 0.24) if self.dark else rng.uniform(0.8, 0.95)
        step = rng.uniform(0.05, 0.14)
        hue, saturation = rng.random(), rng.uniform(0.0, 0.2)
        second = value + step if self.dark else value - step
        return Background(
            kind=str(rng.choice(["plain", "gradient", "texture"])),
            colours=(
                colorsys.hsv_to_rgb(hue, saturation, value),
                colorsys.hsv_to_rgb(hue, saturation, second),
            ),
            gradient_angle=float(rng.uniform(0, 2 * np.pi)),
            texture_grid=rng.random((12, 12)),
        )

    @property
    def outline_brightness(self) -> float:
        """Outline of things, see `Scene.outline_brightness`."""
        return 1.8 if self.dark else 0.45


def regular_polygon(sides: int, size: float) -> npt.NDArray[np.float64]:
    """A regular polygon's corners `[sides, 2]` about its centre, lying on an edge at angle 0."""
    angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides - np.pi / 2
    return np.asarray(size * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def box_vertices(width: float, height: float) -> npt.NDArray[np.float64]:
    """A rectangle's corners `[4, 2]` about its centre."""
    return rectangle_vertices(-width / 2, -height / 2, width / 2, height / 2)


DEFAULT_SHAPES = ("ball", "ball", "box", "box", "triangle", "hexagon")


def sample_body(
    rng: np.random.Generator,
    palette: Palette,
    position: tuple[float, float],
    *,
    shapes: tuple[str, ...] = DEFAULT_SHAPES,
    size: tuple[float, float] = (0.5, 0.9),
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0),
    restitution: tuple[float, float] = (0.6, 0.9),
    friction: tuple[float, float] = (0.1, 0.6),
    angle: float = 0.0,
    role: str = "mover",
) -> RigidBody:
    """A thing of random shape, size, mass and colour with its centre at `position`."""
    shape = str(rng.choice(shapes))
    reach = float(rng.uniform(*size))
    corners = None
    if shape == "box":
        corners = box_vertices(2 * reach * 0.72, 2 * reach * 0.72 * float(rng.uniform(0.75, 1.2)))
        reach = float(np.linalg.norm(corners[0]))
    elif shape != "ball":
        corners = regular_polygon({"triangle": 3, "hexagon": 6}[shape], reach)
    bounce = float(rng.uniform(*restitution))
    marking = str(rng.choice(["half", "stripe", "dot"] if shape == "ball" else ["plain", "stripe"]))
    return RigidBody(
        shape=shape,
        size=reach,
        mass=float(rng.uniform(0.5, 2.0)) * reach**2 * 4,
        pose=(position[0], position[1], angle),
        colour=palette.body_colour(),
        mark_colour=palette.mark_colour(),
        marking=marking,
        velocity=velocity,
        restitution=bounce if corners is None else min(bounce, MAX_POLYGON_RESTITUTION),
        friction=float(rng.uniform(*friction)),
        corners=corners,
        role=role,
    )


def bottom_offset(thing: RigidBody) -> float:
    """How far the lowest point at angle 0 lies below the centre, in metres."""
    return thing.size if thing.corners is None else -float(thing.corners[:, 1].min())


def floor_and_walls(palette: Palette, floor: float) -> list[StaticPolygon]:
    """A floor of the given height and a wall on either side, going on outside the picture."""
    colour = palette.static_colour()
    low, high = -WALL_OVERHANG, VIEW_METERS + 5 * WALL_OVERHANG
    return [
        StaticPolygon(rectangle_vertices(low, low, VIEW_METERS - low, floor), colour, "floor"),
        StaticPolygon(rectangle_vertices(low, low, WALL_THICKNESS, high), colour, "left wall"),
        StaticPolygon(
            rectangle_vertices(VIEW_METERS - WALL_THICKNESS, low, VIEW_METERS - low, high),
            colour,
            "right wall",
        ),
    ]
