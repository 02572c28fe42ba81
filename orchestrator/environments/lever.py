"""Lever: a see-saw with a ball in a cup on its left end; a pusher on the right arm raises the ball.

Metres, seconds, kilograms; x right, y up; the image shows 10 m.
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
CUP_WALL_HEIGHT = 0.6  # twice its thickness; the ball lies between two cup walls
CUP_WALLS_X = (-PLANK_HALF_LENGTH + 0.1, -PLANK_HALF_LENGTH + 1.3)  # positions along the plank
BALL_RADIUS, PUSHER_RADIUS = 0.5, 0.4
PUSHER_X_RANGE = (PUSHER_RADIUS, VIEW_METERS - PUSHER_RADIUS)
PUSHER_SPEED, PUSHER_FORCE, PUSHER_MASS = 3.0, 25.0, 1.0  # m/s, newton, kg
HINGE_DAMPING = 26.0  # N m s; with less, any push throws the ball out of its cup
PLANK_MASS, BALL_MASS, FRICTION, RESTITUTION = 1.5, 1.0, 0.8, 0.1
MAX_ANGLE = 0.6  # radians; the plank reaches the floor at a smaller angle
BALL_RESTING_HEIGHT, BALL_RAISED_HEIGHT = 2.2, 3.0  # below: at rest; above: raised
SUCCESS_DISTANCE = 0.5
FULCRUM = np.array(
    [[4.5, FLOOR_HEIGHT], [5.5, FLOOR_HEIGHT], [5.0, PIVOT[1] - PLANK_THICKNESS / 2]]
)


class Lever(RigidBodyEnvironment):
    """Lever environment: the action is the pusher's target velocity, [-1, 1] times 3 m/s.

    The pusher accelerates towards it with at most 25 N on each axis.
    """

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
        """Sample a state with the ball in its cup and the pusher anywhere above."""
        state = _resting_state().copy()
        state[:2] = rng.uniform((1.0, 4.5), (9.0, 9.0))
        return state

    def is_success(self, state: Floats, goal: Floats) -> bool:
        """Whether the ball is within half a metre of the goal."""
        return float(np.linalg.norm(state[6:8] - goal[6:8])) < SUCCESS_DISTANCE

    def is_nontrivial(self, start: Floats, goal: Floats) -> bool:
        """Whether the ball has to be raised."""
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

    def apply_action(self, space: PhysicsSpace, action: Floats, seconds: float) -> None:
        """Change the pusher's velocity towards the target, within its maximum force."""
        pusher = space.bodies[0]
        max_change = PUSHER_FORCE / PUSHER_MASS * seconds
        vx, vy = (
            speed + min(max(PUSHER_SPEED * float(target) - speed, -max_change), max_change)
            for speed, target in zip(pusher.velocity, action, strict=True)
        )
        # The pusher floats: this cancels the gravity that the solver applies in this step.
        pusher.velocity = (vx, vy + GRAVITY * seconds)

    def read_state(self, space: PhysicsSpace, previous_state: Floats) -> Floats:
        pusher, plank, ball = space.bodies
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
        rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        centres = np.stack([part.mean(0) for part in _plank_parts()]) @ rotation + PIVOT
        planks = np.concatenate([centres, np.full((len(centres), 1), angle)], axis=1)
        ball, pusher = [*state[6:8], 0.0], [*state[:2], 0.0]
        return np.array([*planks, ball, pusher], np.float32)


def _add_shape(space: pymunk.Space, shape: pymunk.Shape, *, collides: bool = True) -> None:
    """Add a shape; shapes with `collides=False` (plank and fulcrum) ignore each other."""
    shape.friction, shape.elasticity = FRICTION, RESTITUTION
    shape.filter = pymunk.ShapeFilter(group=0 if collides else 1)
    space.add(shape)


def _plank_parts() -> list[Floats]:
    """Vertices of the plank and of the two cup walls, relative to the pivot."""
    up = PLANK_THICKNESS / 2
    parts = [rectangle_vertices(-PLANK_HALF_LENGTH, -up, PLANK_HALF_LENGTH, up)]
    parts += [
        rectangle_vertices(
            x - CUP_WALL_HEIGHT / 4, up, x + CUP_WALL_HEIGHT / 4, up + CUP_WALL_HEIGHT
        )
        for x in CUP_WALLS_X
    ]
    return [part.astype(np.float32) for part in parts]


def _floor_and_walls() -> list[Floats]:
    """Vertices of floor and walls, thick so that no fast body passes through."""
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
    bodies = (
        *planks,
        visual_body("ball", BALL_RADIUS, red),
        visual_body("ball", PUSHER_RADIUS, green),
    )
    floor = StaticPolygon(rectangle_vertices(0, 0, VIEW_METERS, FLOOR_HEIGHT), (0.55, 0.5, 0.45))
    fulcrum = StaticPolygon(FULCRUM, (0.35, 0.35, 0.35), "fulcrum")
    sky = Background("plain", ((0.95, 0.95, 0.92), (0.95, 0.95, 0.92)))
    return Scene("lever", bodies, (floor, fulcrum), sky, outline_brightness=0.7)


@functools.cache
def _resting_state() -> Floats:
    """The state in which the ball is at rest in its cup, the left end on the floor."""
    environment = Lever()
    angle = np.arcsin((PIVOT[1] - FLOOR_HEIGHT - PLANK_THICKNESS / 2) / PLANK_HALF_LENGTH) * 0.97
    along, up = sum(CUP_WALLS_X) / 2, PLANK_THICKNESS / 2 + BALL_RADIUS
    ball = (
        PIVOT[0] + along * np.cos(angle) - up * np.sin(angle),
        PIVOT[1] + along * np.sin(angle) + up * np.cos(angle),
    )
    state = np.array([5, 9, 0, 0, angle, 0, *ball, 0, 0, 0], np.float32)
    for _ in range(40):
        state = environment.next_state(state, np.zeros(2, np.float32))
    state[[5, 8, 9, 10]] = 0
    return state


class LeverCollector:
    """Moves to a random position above, then often down onto the right arm, waits, and leaves."""

    noise, slow_down_distance = 0.15, 0.5

    def __init__(self) -> None:
        self._waypoints: list[Floats] = []
        self._steps_left, self._dwell_steps = 20, 0  # to reach a waypoint; to stay at it

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        position = environment.state[:2]
        if not self._waypoints:
            self._waypoints = self._plan(rng)
        step = self._waypoints[0] - position
        self._steps_left -= 1
        if np.linalg.norm(step) < 0.4:
            self._steps_left = min(self._steps_left, self._dwell_steps)
        if self._steps_left < 0:
            self._waypoints.pop(0)
            self._steps_left = int(rng.integers(10, 25))
            self._dwell_steps = int(rng.integers(0, 8))
        speed = min(1.0, float(np.linalg.norm(step)) / self.slow_down_distance)
        action = speed * step / max(float(np.linalg.norm(step)), 1e-6)
        return np.clip(action + rng.normal(0, self.noise, 2), -1, 1).astype(np.float32)

    def _plan(self, rng: np.random.Generator) -> list[Floats]:
        """Sample the next waypoints: above, and three times in four down onto the right arm."""
        right = rng.random() < 0.75
        x = rng.uniform(6.3, 7.9) if right else rng.uniform(1.0, 9.0)
        over = np.array([x, rng.uniform(4.5, 6.5)], np.float32)
        below = np.array([x + rng.normal(0, 0.2), rng.uniform(0.9, 2.4)], np.float32)
        return [over, below] if right or rng.random() < 0.3 else [over]
