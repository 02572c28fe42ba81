"""Data classes of a scene: moving rigid bodies, static polygons, occluders, a background.

Units are metres, seconds and kilograms; x points right, y up, and the picture shows
`VIEW_METERS` x `VIEW_METERS` metres with its lower left corner at the origin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

VIEW_METERS = 10.0
GRAVITY = 9.81

Floats = npt.NDArray[np.float32]
Colour = tuple[float, float, float]  # RGB, each in [0, 1]


@dataclass(frozen=True)
class RigidBody:
    """One rigid body: a ball, or a convex polygon about its centre of mass."""

    shape: str
    """`ball`, or the name of the polygon."""
    size: float
    """Radius; for a polygon the distance from its centre to the farthest vertex."""
    mass: float
    pose: tuple[float, float, float]
    """x, y, angle at time 0."""
    colour: Colour
    mark_colour: Colour
    """Colour of the mark that makes the angle visible."""
    marking: str = "plain"
    """`plain`, `half`, `stripe` or `dot`."""
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """vx, vy, omega at time 0."""
    restitution: float = 0.5
    friction: float = 0.5
    corners: npt.NDArray[np.float64] | None = None
    """`[n, 2]` counter-clockwise about the centre of mass; None for a ball."""
    role: str = "mover"
    """`mover`, `target`, `plank` or `distractor`."""

    @property
    def area(self) -> float:
        """Area of the body in square metres."""
        if self.corners is None:
            return float(np.pi * self.size**2)
        x, y = self.corners.T
        return float(0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))

    @property
    def moment_of_inertia(self) -> float:
        """Moment of inertia about the centre of mass, for a uniform density."""
        if self.corners is None:
            return 0.5 * self.mass * self.size**2
        a, b = self.corners, np.roll(self.corners, -1, axis=0)
        cross = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
        spread = (a * a + a * b + b * b).sum(axis=1)
        return float(self.mass * np.sum(cross * spread) / (6 * np.sum(cross)))


@dataclass(frozen=True)
class StaticPolygon:
    """A static convex polygon that bodies collide with."""

    vertices: npt.NDArray[np.float64]
    """`[n, 2]` counter-clockwise, in scene coordinates."""
    colour: Colour
    name: str = "floor"
    friction: float = 1.0


@dataclass(frozen=True)
class Occluder:
    """An upright board in front of everything, without collisions."""

    left: float
    bottom: float
    right: float
    top: float
    colour: Colour


@dataclass(frozen=True)
class Background:
    """The background: two colours, mixed evenly, by a gradient or by a (moving) texture."""

    kind: str
    colours: tuple[Colour, Colour]
    gradient_angle: float = 0.0
    """Angle of the gradient, in radians."""
    texture_grid: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))
    """`[k, k]` in [0, 1]: the texture's coarse grid. Of a moving one `[layers, k, k]`, periodic."""
    drift_per_frame: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))
    """`[layers, 2]`: displacement of each layer of a moving texture per frame, in grid cells."""


@dataclass(frozen=True)
class Trajectory:
    """Result of a simulation: poses and contacts."""

    poses: npt.NDArray[np.float64]
    """`[T, objects, 6]`: x, y, angle, vx, vy, omega."""
    contacts: list[Contact]
    fps: float

    def first_frames(self, frames: int) -> Trajectory:
        """The first frames only."""
        contacts = [one for one in self.contacts if one.time < frames / self.fps]
        return Trajectory(self.poses[:frames], contacts, self.fps)


@dataclass(frozen=True)
class Contact:
    """Two bodies, or a body and a static polygon, begin to touch."""

    time: float
    a: str
    """`thing 0`, `thing 1`, ... or the name of a solid."""
    b: str
    speed: float
    """Speed of approach along the normal, in m/s."""


def _always_true(trajectory: Trajectory) -> bool:
    return True


@dataclass(frozen=True)
class Scene:
    """The initial state and appearance of a scene, which determine its video."""

    family: str
    things: tuple[RigidBody, ...]
    solids: tuple[StaticPolygon, ...]
    background: Background
    outline_brightness: float
    """Outlines: below 1 darker than the fill by this factor, above 1 towards white."""
    screens: tuple[Occluder, ...] = ()
    pivot_anchors: tuple[tuple[int, tuple[float, float]], ...] = ()
    """Bodies that rotate about a fixed point (through their centre)."""
    pendulum_anchors: tuple[tuple[int, tuple[float, float]], ...] = ()
    """Bodies that hang from a fixed point by a rigid string."""
    ignored_contacts: tuple[tuple[int, str], ...] = ()
    """Pairs of a body and a static polygon that do not collide (a plank and its fulcrum)."""
    gravity: float = GRAVITY
    event_occurred: Callable[[Trajectory], bool] = _always_true
    """Whether the event of this scene type happened; if not, the scene is sampled again."""

    def mirrored(self) -> Scene:
        """The scene mirrored left to right."""
        return replace(
            self,
            things=tuple(map(_mirror_body, self.things)),
            solids=tuple(replace(s, vertices=_mirror_vertices(s.vertices)) for s in self.solids),
            screens=tuple(
                replace(s, left=VIEW_METERS - s.right, right=VIEW_METERS - s.left)
                for s in self.screens
            ),
            pivot_anchors=tuple(
                (thing, (VIEW_METERS - x, y)) for thing, (x, y) in self.pivot_anchors
            ),
            pendulum_anchors=tuple(
                (thing, (VIEW_METERS - x, y)) for thing, (x, y) in self.pendulum_anchors
            ),
        )


def _mirror_vertices(
    corners: npt.NDArray[np.float64], about: float = VIEW_METERS
) -> npt.NDArray[np.float64]:
    # Reversed as well, so that the vertices remain counter-clockwise.
    return np.stack([about - corners[::-1, 0], corners[::-1, 1]], axis=1)


def _mirror_body(thing: RigidBody) -> RigidBody:
    x, y, angle = thing.pose
    vx, vy, omega = thing.velocity
    corners = None if thing.corners is None else _mirror_vertices(thing.corners, about=0.0)
    return replace(
        thing, pose=(VIEW_METERS - x, y, -angle), velocity=(-vx, vy, -omega), corners=corners
    )


def rectangle_vertices(
    left: float, bottom: float, right: float, top: float
) -> npt.NDArray[np.float64]:
    """Vertices `[4, 2]` of an upright rectangle, counter-clockwise."""
    return np.array([[left, bottom], [right, bottom], [right, top], [left, top]])


def edge_half_planes(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Edges of a convex polygon as `[n, 3]` rows (nx, ny, d): inside is nx*x + ny*y <= d."""
    along = np.roll(corners, -1, axis=0) - corners
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return np.concatenate([normal, np.sum(normal * corners, axis=1, keepdims=True)], axis=1)
