"""A see-saw with a ball in a cup on its left end, and a pusher: the ball rises where it pushes down
on the right.

Metres, seconds, kilograms; x right, y up; the picture shows 10 m.
"""

from __future__ import annotations

import functools

import numpy as np
import pymunk

from orchestrator.environments.base import Collector, Environment, Floats
from orchestrator.environments.rigid_body import (
    PhysicsSpace,
    RigidBodyEnvironment,
    make_body,
    visual_body,
)
from orchestrator.physics.scene import (
    GRAVITY,
    VIEW_METERS,
    Background,
    Scene,
    StaticPolygon,
    rectangle_vertices,
)

FLOOR_HEIGHT, PIVOT, PLANK_HALF_LENGTH, PLANK_THICKNESS = 1.0, (5.0, 2.3), 3.2, 0.3
CUP_WALL_HEIGHT = 0.6  # height and thickness are LIP and LIP / 2; the ball lies between two of them
CUP_WALLS_X = (
    -PLANK_HALF_LENGTH + 0.1,
    -PLANK_HALF_LENGTH + 1.3,
)  # where they stand along the plank
BALL_RADIUS, PUSHER_RADIUS = 0.5, 0.4  # radii
PUSHER_X_RANGE = (PUSHER_RADIUS, VIEW_METERS - PUSHER_RADIUS)
PUSHER_SPEED, PUSHER_FORCE, PUSHER_MASS = 3.0, 25.0, 1.0  # of the pusher: m/s, newton, kg
HINGE_DAMPING = 26.0  # N m s: the hinge is stiff, or any push would fling the ball out of its cup
PLANK_MASS, BALL_MASS, FRICTION, RESTITUTION = 1.5, 1.0, 0.8, 0.1
MAX_ANGLE = 0.6  # radians; the floor stops the plank before
BALL_RESTING_HEIGHT, BALL_RAISED_HEIGHT, SUCCESS_DISTANCE = (
    2.2,
    3.0,
    0.5,
)  # of the ball: lying, raised, and near enough to a goal
FULCRUM = np.array(
    [[4.5, FLOOR_HEIGHT], [5.5, FLOOR_HEIGHT], [5.0, PIVOT[1] - PLANK_THICKNESS / 2]]
)


class Lever(RigidBodyEnvironment):
    """Action: the velocity that the pusher strives for, x and y in [-1, 1] times 3 m/s, with at
    most 25 N on each axis."""

    control_rate = 10.0
    state_names = (
        "pusher x", "pusher y", "pusher vx", "pusher vy", "plank angle", "plank turn",
        "ball x", "ball y", "ball vx", "ball vy", "ball turn",
    )  # fmt: skip
    state_bounds = (
        PUSHER_X_RANGE, (FLOOR_HEIGHT, VIEW_METERS), (-20, 20), (-20, 20),
        (-MAX_ANGLE, MAX_ANGLE), (-20, 20),
        (0, VIEW_METERS), (FLOOR_HEIGHT, 2 * VIEW_METERS), (-30, 30), (-30, 30), (-100, 100),
    )  # fmt: skip
    substeps = 48

    @classmethod
    def make_collector(cls) -> Collector:
        return LeverCollector()

    def sample_state(self, rng: np.random.Generator) -> Floats:
        """The ball lies in its cup; the pusher is anywhere above."""
        state = _resting_state().copy()
        state[:2] = rng.uniform((1.0, 4.5), (9.0, 9.0))
        return state

    def is_success(self, state: Floats, goal: Floats) -> bool:
        """The ball is within half a metre of where it should be."""
        return float(np.linalg.norm(state[6:8] - goal[6:8])) < SUCCESS_DISTANCE

    def is_nontrivial(self, start: Floats, goal: Floats) -> bool:
        """The ball has to be raised."""
        return bool(
            start[7] < BALL_RESTING_HEIGHT
            and goal[7] > BALL_RAISED_HEIGHT
            and not self.is_success(start, goal)
        )

    def build_space(self, state: Floats) -> PhysicsSpace:
        space = pymunk.Space()
        space.gravity = (0.0, -GRAVITY)
        space.iterations, space.collision_slop = 20, 0.002
        for part in (*_floor_and_walls(), FULCRUM):
            _add_shape(
                space, pymunk.Poly(space.static_body, part.tolist()), collides=part is not FULCRUM
            )
        pusher = make_body(PUSHER_MASS, float("inf"), state[:4])
        plank = make_body(
            PLANK_MASS, PLANK_MASS * PLANK_HALF_LENGTH**2 / 3, np.array(PIVOT), float(state[4])
        )
        plank.angular_velocity = float(state[5])
        ball = make_body(BALL_MASS, BALL_MASS * BALL_RADIUS**2 / 2, state[6:10])
        ball.angular_velocity = float(state[10])
        space.add(pusher, plank, ball, pymunk.PivotJoint(space.static_body, plank, PIVOT, (0, 0)))
        space.add(pymunk.DampedRotarySpring(space.static_body, plank, 0.0, 0.0, HINGE_DAMPING))
        _add_shape(space, pymunk.Circle(pusher, PUSHER_RADIUS))
        _add_shape(space, pymunk.Circle(ball, BALL_RADIUS))
        for part in _plank_parts():
            _add_shape(space, pymunk.Poly(plank, part.tolist()), collides=False)
        return PhysicsSpace(space, (pusher, plank, ball))

    def apply_action(self, stage: PhysicsSpace, action: Floats, seconds: float) -> None:
        """The pusher's velocity goes towards the one that is asked for, as far as its force may."""
        pusher = stage.bodies[0]
        most = PUSHER_FORCE / PUSHER_MASS * seconds
        vx, vy = (
            now + min(max(PUSHER_SPEED * float(wanted) - now, -most), most)
            for now, wanted in zip(pusher.velocity, action, strict=True)
        )
        # It is held up: what gravity will take away in this step is given first.
        pusher.velocity = (vx, vy + GRAVITY * seconds)

    def read_state(self, stage: PhysicsSpace, before: Floats) -> Floats:
        pusher, plank, ball = stage.bodies
        return np.array(
            [
                *pusher.position, *pusher.velocity, plank.angle, plank.angular_velocity,
                *ball.position, *ball.velocity, ball.angular_velocity,
            ],
            np.float32,
        )  # fmt: skip

    def scene(self) -> Scene:
        return _scene()

    def poses(self, state: Floats) -> Floats:
        angle = float(state[4])
        turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        centres = np.stack([part.mean(0) for part in _plank_parts()]) @ turned + PIVOT
        planks = np.concatenate([centres, np.full((len(centres), 1), angle)], axis=1)
        ball, pusher = [*state[6:8], 0.0], [*state[:2], 0.0]
        return np.array([*planks, ball, pusher], np.float32)


def _add_shape(space: pymunk.Space, shape: pymunk.Shape, *, collides: bool = True) -> None:
    """Add a shape; the plank and its fulcrum do not meet each other."""
    shape.friction, shape.elasticity = FRICTION, RESTITUTION
    shape.filter = pymunk.ShapeFilter(group=0 if collides else 1)
    space.add(shape)


def _plank_parts() -> list[Floats]:
    """The plank and the two lips of the cup, corners about the pivot."""
    up = PLANK_THICKNESS / 2
    parts = [rectangle_vertices(-PLANK_HALF_LENGTH, -up, PLANK_HALF_LENGTH, up)]
    parts += [
        rectangle_vertices(
            at - CUP_WALL_HEIGHT / 4, up, at + CUP_WALL_HEIGHT / 4, up + CUP_WALL_HEIGHT
        )
        for at in CUP_WALLS_X
    ]
    return [part.astype(np.float32) for part in parts]


def _floor_and_walls() -> list[Floats]:
    """Floor and walls, thick so that nothing gets through."""
    parts = [
        (-5, -5, VIEW_METERS + 5, FLOOR_HEIGHT),
        (-5, FLOOR_HEIGHT, 0, 30),
        (VIEW_METERS, FLOOR_HEIGHT, VIEW_METERS + 5, 30),
    ]
    return [rectangle_vertices(*map(float, part)).astype(np.float32) for part in parts]


@functools.cache
def _scene() -> Scene:
    blue, red, green = (0.2, 0.35, 0.8), (0.85, 0.2, 0.15), (0.1, 0.6, 0.3)
    planks = [
        visual_body("plank", PLANK_HALF_LENGTH, blue, part - part.mean(0))
        for part in _plank_parts()
    ]
    things = (
        *planks,
        visual_body("ball", BALL_RADIUS, red),
        visual_body("ball", PUSHER_RADIUS, green),
    )
    floor = StaticPolygon(rectangle_vertices(0, 0, VIEW_METERS, FLOOR_HEIGHT), (0.55, 0.5, 0.45))
    fulcrum = StaticPolygon(FULCRUM, (0.35, 0.35, 0.35), "fulcrum")
    sky = Background("plain", ((0.95, 0.95, 0.92), (0.95, 0.95, 0.92)))
    return Scene("lever", things, (floor, fulcrum), sky, outline_brightness=0.7)


@functools.cache
def _resting_state() -> Floats:
    """The state after the ball has come to rest in its cup, the left end on the floor."""
    world = Lever()
    angle = np.arcsin((PIVOT[1] - FLOOR_HEIGHT - PLANK_THICKNESS / 2) / PLANK_HALF_LENGTH) * 0.97
    along, up = sum(CUP_WALLS_X) / 2, PLANK_THICKNESS / 2 + BALL_RADIUS
    ball = (
        PIVOT[0] + along * np.cos(angle) - up * np.sin(angle),
        PIVOT[1] + along * np.sin(angle) + up * np.cos(angle),
    )
    state = np.array([5, 9, 0, 0, angle, 0, *ball, 0, 0, 0], np.float32)
    for _ in range(40):
        state = world.next_state(state, np.zeros(2, np.float32))
    state[[5, 8, 9, 10]] = 0
    return state


class LeverCollector:
    """Goes somewhere above, then often down on the right arm, stays a while, and leaves again."""

    noise, slow_down_distance = 0.15, 0.5

    def __init__(self) -> None:
        self._way: list[Floats] = []
        self._wait, self._stay = 20, 0  # control steps: on the way at most, and there

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        at = environment.state[:2]
        if not self._way:
            self._way = self._plan(rng)
        step = self._way[0] - at
        self._wait -= 1
        if np.linalg.norm(step) < 0.4:
            self._wait = min(self._wait, self._stay)
        if self._wait < 0:
            self._way.pop(0)
            self._wait, self._stay = int(rng.integers(10, 25)), int(rng.integers(0, 8))
        speed = min(1.0, float(np.linalg.norm(step)) / self.slow_down_distance)
        action = speed * step / max(float(np.linalg.norm(step)), 1e-6)
        return np.clip(action + rng.normal(0, self.noise, 2), -1, 1).astype(np.float32)

    def _plan(self, rng: np.random.Generator) -> list[Floats]:
        """The next places: up, across, and three times of four down on the right arm."""
        right = rng.random() < 0.75
        x = rng.uniform(6.3, 7.9) if right else rng.uniform(1.0, 9.0)
        over = np.array([x, rng.uniform(4.5, 6.5)], np.float32)
        below = np.array([x + rng.normal(0, 0.2), rng.uniform(0.9, 2.4)], np.float32)
        return [over, below] if right or rng.random() < 0.3 else [over]
