"""Drop: a gripper carries a ball under the ceiling and may release it once, over floor or shelves.

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

BALL_RADIUS = 0.5
HELD_HEIGHT = 7.8  # of the held ball
GRIPPER_SPEED = 4.0  # m/s
GRIPPER_X_RANGE = (BALL_RADIUS, VIEW_METERS - BALL_RADIUS)
FLOOR_RECTANGLE = (0.0, 0.0, VIEW_METERS, 1.0)
SHELVES = ((0.6, 3.2, 3.6, 3.5), (6.2, 4.6, 9.2, 4.9))
SHELF_EDGE_HEIGHT = 0.3  # raised ends of the shelves, so that a ball can come to rest on them
DAMPING = 0.5  # share of a speed that remains after one second
SUCCESS_DISTANCE, MAX_RESTING_SPEED, MIN_TASK_DISTANCE = 0.5, 0.5, 1.0


class Drop(RigidBodyEnvironment):
    """Drop environment: the action is the gripper's velocity, in [-1, 1] times 4 m/s, and its grip.

    A grip below 0 releases the ball, which cannot be picked up again.
    """

    control_rate = 10.0
    substeps = 48
    state_names = ("gripper x", "held", "ball x", "ball y", "ball vx", "ball vy", "ball turn")
    state_bounds = (
        GRIPPER_X_RANGE,
        (0, 1),
        (0, VIEW_METERS),
        (0, VIEW_METERS),
        (-20, 20),
        (-20, 20),
        (-100, 100),
    )

    @classmethod
    def make_collector(cls) -> Collector:
        return DropCollector()

    def sample_state(self, rng: np.random.Generator) -> Floats:
        """Sample a state with the ball held, anywhere along the ceiling."""
        x = rng.uniform(*GRIPPER_X_RANGE)
        return np.array([x, 1, x, HELD_HEIGHT, 0, 0, 0], np.float32)

    def is_success(self, state: Floats, goal: Floats) -> bool:
        """Whether the ball is within half a metre of the goal, and held exactly if it is there."""
        same = (state[1] > 0.5) == (goal[1] > 0.5)
        return bool(same and np.linalg.norm(state[2:4] - goal[2:4]) < SUCCESS_DISTANCE)

    def is_nontrivial(self, start: Floats, goal: Floats) -> bool:
        """Whether a held ball has to be carried, released, and come to rest."""
        rests = goal[1] < 0.5 and np.linalg.norm(goal[4:6]) < MAX_RESTING_SPEED
        return bool(start[1] > 0.5 and rests and abs(start[2] - goal[2]) > MIN_TASK_DISTANCE)

    def next_state(self, state: Floats, action: Floats) -> Floats:
        before, held = float(state[0]), bool(state[1] > 0.5)
        x = float(
            np.clip(before + GRIPPER_SPEED * float(action[0]) / self.control_rate, *GRIPPER_X_RANGE)
        )
        velocity = (x - before) * self.control_rate
        if held and action[1] >= 0:
            return np.array([x, 1, x, HELD_HEIGHT, velocity, 0, 0], np.float32)
        free = state.copy()
        free[1] = 0
        if held:  # a released ball keeps the gripper's velocity
            free[4] = velocity
        fallen = super().next_state(free, action)
        fallen[0] = x
        return fallen

    def build_space(self, state: Floats) -> PhysicsSpace:
        space = pymunk.Space()
        space.gravity, space.damping = (0.0, -GRAVITY), DAMPING
        space.iterations, space.collision_slop = 20, 0.002
        ball = make_body(1.0, BALL_RADIUS**2 / 2, state[2:6])
        ball.angular_velocity = float(state[6])
        space.add(ball)
        shapes: list[pymunk.Shape] = [pymunk.Circle(ball, BALL_RADIUS)]
        floor_and_walls = [
            (-5, -5, VIEW_METERS + 5, FLOOR_RECTANGLE[3]),
            (-5, 0, 0, 30),
            (VIEW_METERS, 0, VIEW_METERS + 5, 30),
        ]
        for part in (*floor_and_walls, *_shelves()):
            vertices = rectangle_vertices(*map(float, part))
            shapes.append(pymunk.Poly(space.static_body, vertices.tolist()))
        for shape in shapes:
            shape.friction, shape.elasticity = 0.8, 0.5
        space.add(*shapes)
        return PhysicsSpace(space, (ball,))

    def apply_action(self, space: PhysicsSpace, action: Floats, seconds: float) -> None:
        """Do nothing: no action affects a falling ball."""

    def read_state(self, space: PhysicsSpace, previous_state: Floats) -> Floats:
        (ball,) = space.bodies
        spin = ball.angular_velocity
        return np.array([previous_state[0], 0, *ball.position, *ball.velocity, spin], np.float32)

    def scene(self) -> Scene:
        return _scene()

    def poses(self, state: Floats) -> Floats:
        gripper = [state[0], HELD_HEIGHT + BALL_RADIUS + 0.25, 0.0]
        return np.array([gripper, [*state[2:4], 0.0]], np.float32)


def _shelves() -> list[tuple[float, ...]]:
    """Rectangles of the shelves and their raised ends: left, bottom, right, top."""
    parts: list[tuple[float, ...]] = [*SHELVES]
    for left, _, right, top in SHELVES:
        parts += [
            (left, top, left + SHELF_EDGE_HEIGHT / 2, top + SHELF_EDGE_HEIGHT),
            (right - SHELF_EDGE_HEIGHT / 2, top, right, top + SHELF_EDGE_HEIGHT),
        ]
    return parts


@functools.cache
def _scene() -> Scene:
    gripper = rectangle_vertices(-0.6, -0.2, 0.6, 0.2).astype(np.float32)
    bodies = (
        visual_body("gripper", 0.65, (0.2, 0.35, 0.8), gripper),
        visual_body("ball", BALL_RADIUS, (0.85, 0.2, 0.15)),
    )
    solids = tuple(
        StaticPolygon(rectangle_vertices(*part), (0.55, 0.5, 0.45), "shelf")
        for part in (FLOOR_RECTANGLE, *_shelves())
    )
    sky = Background("plain", ((0.95, 0.95, 0.92), (0.95, 0.95, 0.92)))
    return Scene("drop", bodies, solids, sky, outline_brightness=0.7)


class DropCollector:
    """Carries the ball to one to three positions and releases it over the last one."""

    noise = 0.2

    def __init__(self) -> None:
        self._waypoints: list[float] | None = None

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        x = float(environment.state[0])
        if self._waypoints is None:
            self._waypoints = list(rng.uniform(*GRIPPER_X_RANGE, int(rng.integers(1, 4))))
        if self._waypoints and abs(self._waypoints[0] - x) < 0.4:
            self._waypoints.pop(0)
        target = self._waypoints[0] if self._waypoints else x
        velocity = float(np.clip((target - x) / 0.8, -1, 1) + rng.normal(0, self.noise))
        grip = rng.uniform(0.1, 1) if self._waypoints else rng.uniform(-1, -0.1)
        return np.clip([velocity, grip], -1, 1).astype(np.float32)
