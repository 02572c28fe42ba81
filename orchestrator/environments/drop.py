"""A gripper carries a ball along under the ceiling and may let it go, once: it comes to rest on the
floor, or on one of two shelves.

Metres, seconds, kilograms; x right, y up; the picture shows 10 m.
"""

from __future__ import annotations

import functools

import numpy as np
import pymunk

from orchestrator.environments.base import Collector, Floats, World
from orchestrator.environments.rigid_body import RigidWorld, Stage, body, plain
from orchestrator.physics.scene import GRAVITY, VIEW, Backdrop, Scene, Solid, rectangle

BALL, CARRIED, SPEED = 0.5, 7.8, 4.0  # radius, height of the ball that is held, m/s
REACH = (BALL, VIEW - BALL)
FLOOR = (0.0, 0.0, VIEW, 1.0)
SHELVES = ((0.6, 3.2, 3.6, 3.5), (6.2, 4.6, 9.2, 4.9))
LIP = 0.3  # the shelves' ends stand up by this, so that a ball may come to rest
DAMPING = 0.5  # share of a speed that is left after a second
NEAR, CALM, APART = 0.5, 0.5, 1.0


class Drop(RigidWorld):
    """Action: the gripper's velocity, in [-1, 1] times 4 m/s, and its grip: below 0 it lets go.

    What it let go of it cannot take up again.
    """

    rate = 10.0
    substeps = 48
    state_names = ("gripper x", "held", "ball x", "ball y", "ball vx", "ball vy", "ball turn")
    bounds = (REACH, (0, 1), (0, VIEW), (0, VIEW), (-20, 20), (-20, 20), (-100, 100))

    @classmethod
    def collector(cls) -> Collector:
        return Dropping()

    def draw(self, rng: np.random.Generator) -> Floats:
        """The ball is held, anywhere."""
        x = rng.uniform(*REACH)
        return np.array([x, 1, x, CARRIED, 0, 0, 0], np.float32)

    def reached(self, state: Floats, goal: Floats) -> bool:
        """The ball is within half a metre of where it should be, and as free or held."""
        same = (state[1] > 0.5) == (goal[1] > 0.5)
        return bool(same and np.linalg.norm(state[2:4] - goal[2:4]) < NEAR)

    def worthwhile(self, start: Floats, goal: Floats) -> bool:
        """A ball that is held has to be carried, let go, and come to rest."""
        rests = goal[1] < 0.5 and np.linalg.norm(goal[4:6]) < CALM
        return bool(start[1] > 0.5 and rests and abs(start[2] - goal[2]) > APART)

    def after(self, state: Floats, action: Floats) -> Floats:
        before, held = float(state[0]), bool(state[1] > 0.5)
        x = float(np.clip(before + SPEED * float(action[0]) / self.rate, *REACH))
        velocity = (x - before) * self.rate
        if held and action[1] >= 0:
            return np.array([x, 1, x, CARRIED, velocity, 0, 0], np.float32)
        free = state.copy()
        free[1] = 0
        if held:  # it flies on as it was carried
            free[4] = velocity
        fallen = super().after(free, action)
        fallen[0] = x
        return fallen

    def stage(self, state: Floats) -> Stage:
        space = pymunk.Space()
        space.gravity, space.damping = (0.0, -GRAVITY), DAMPING
        space.iterations, space.collision_slop = 20, 0.002
        ball = body(1.0, BALL**2 / 2, state[2:6])
        ball.angular_velocity = float(state[6])
        space.add(ball)
        shapes: list[pymunk.Shape] = [pymunk.Circle(ball, BALL)]
        around = [(-5, -5, VIEW + 5, FLOOR[3]), (-5, 0, 0, 30), (VIEW, 0, VIEW + 5, 30)]
        for part in (*around, *_shelves()):
            corners = rectangle(*map(float, part))
            shapes.append(pymunk.Poly(space.static_body, corners.tolist()))
        for shape in shapes:
            shape.friction, shape.elasticity = 0.8, 0.5
        space.add(*shapes)
        return Stage(space, (ball,))

    def drive(self, stage: Stage, action: Floats, seconds: float) -> None:
        """Nothing acts on a ball that falls."""

    def read(self, stage: Stage, before: Floats) -> Floats:
        (ball,) = stage.bodies
        turn = ball.angular_velocity
        return np.array([before[0], 0, *ball.position, *ball.velocity, turn], np.float32)

    def scene(self) -> Scene:
        return _scene()

    def poses(self, state: Floats) -> Floats:
        gripper = [state[0], CARRIED + BALL + 0.25, 0.0]
        return np.array([gripper, [*state[2:4], 0.0]], np.float32)


def _shelves() -> list[tuple[float, ...]]:
    """The shelves and their ends, as left, bottom, right, top."""
    parts: list[tuple[float, ...]] = [*SHELVES]
    for left, _, right, top in SHELVES:
        parts += [(left, top, left + LIP / 2, top + LIP), (right - LIP / 2, top, right, top + LIP)]
    return parts


@functools.cache
def _scene() -> Scene:
    gripper = rectangle(-0.6, -0.2, 0.6, 0.2).astype(np.float32)
    things = (
        plain("gripper", 0.65, (0.2, 0.35, 0.8), gripper),
        plain("ball", BALL, (0.85, 0.2, 0.15)),
    )
    solids = tuple(
        Solid(rectangle(*part), (0.55, 0.5, 0.45), "shelf") for part in (FLOOR, *_shelves())
    )
    sky = Backdrop("plain", ((0.95, 0.95, 0.92), (0.95, 0.95, 0.92)))
    return Scene("drop", things, solids, sky, rim=0.7)


class Dropping:
    """Carries the ball to one place or several, and lets it go over the last."""

    noise = 0.2

    def __init__(self) -> None:
        self._way: list[float] | None = None

    def __call__(self, world: World, rng: np.random.Generator) -> Floats:
        x = float(world.state[0])
        if self._way is None:
            self._way = list(rng.uniform(*REACH, int(rng.integers(1, 4))))
        if self._way and abs(self._way[0] - x) < 0.4:
            self._way.pop(0)
        to = self._way[0] if self._way else x
        velocity = float(np.clip((to - x) / 0.8, -1, 1) + rng.normal(0, self.noise))
        grip = rng.uniform(0.1, 1) if self._way else rng.uniform(-1, -0.1)
        return np.clip([velocity, grip], -1, 1).astype(np.float32)
