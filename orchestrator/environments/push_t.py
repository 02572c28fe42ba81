"""Push-T: a disc pushes a T about on a table.

Lengths, gains and the judgement are those of stable-worldmodel's Push-T (512 to a side, y down), so
that a budget of control steps and a success mean the same. Two things differ: the disc is kept
inside the walls, and no target is painted into the picture, since a goal is given by itself.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pymunk

from orchestrator.environments.base import Collector, Environment, Floats
from orchestrator.environments.rigid_body import (
    PhysicsSpace,
    RigidBodyEnvironment,
    angle_features,
    visual_body,
)
from orchestrator.physics.scene import (
    VIEW_METERS,
    Background,
    Scene,
    StaticPolygon,
    rectangle_vertices,
)

TABLE_SIZE, WALL_WIDTH, DISC_RADIUS, BLOCK_UNIT = (
    512.0,
    7.0,
    15.0,
    30.0,
)  # WALL: how far the walls' faces are from the edge
POSITION_RANGE = (WALL_WIDTH + DISC_RADIUS, TABLE_SIZE - WALL_WIDTH - DISC_RADIUS)
MAX_TARGET_DISTANCE, SPRING_STIFFNESS, SPRING_DAMPING = (
    100.0,
    100.0,
    20.0,
)  # the disc's target: at most this far, and how it goes
SUCCESS_DISTANCE, SUCCESS_ANGLE = 20.0, np.pi / 9
BAR = rectangle_vertices(-2 * BLOCK_UNIT, 0, 2 * BLOCK_UNIT, BLOCK_UNIT)
STEM = rectangle_vertices(-BLOCK_UNIT / 2, BLOCK_UNIT, BLOCK_UNIT / 2, 4 * BLOCK_UNIT)
CENTER_OF_MASS = (0.0, 1.5 * BLOCK_UNIT)  # of mass: halfway between the middles of bar and stem
MASS = 1.0


class PushT(RigidBodyEnvironment):
    """Action: where the disc strives to from where it is, x and y in [-1, 1] times 100 of 512.

    The block's state is the place of the middle of its bar's upper edge, and its angle. There is no
    momentum on the table: a block that nobody pushes stands still.
    """

    version = 2
    control_rate = 10.0
    substeps = 10
    state_names = (
        "agent x",
        "agent y",
        "block x",
        "block y",
        "block angle",
        "agent vx",
        "agent vy",
    )
    state_bounds = (
        POSITION_RANGE,
        POSITION_RANGE,
        (0, TABLE_SIZE),
        (0, TABLE_SIZE),
        (0, 2 * np.pi),
        (-TABLE_SIZE, TABLE_SIZE),
        (-TABLE_SIZE, TABLE_SIZE),
    )

    @classmethod
    def make_collector(cls) -> Collector:
        return PushTCollector()

    def sample_state(self, rng: np.random.Generator) -> Floats:
        """Disc and block anywhere, apart from each other."""
        while True:
            agent, block = rng.uniform(50, 450, 2), rng.uniform(100, 400, 2)
            state = np.array([*agent, *block, rng.uniform(0, 2 * np.pi), 0, 0], np.float32)
            inside = bool(
                (
                    (_block_vertices(state) > WALL_WIDTH)
                    & (_block_vertices(state) < TABLE_SIZE - WALL_WIDTH)
                ).all()
            )
            if inside and _disc_block_distance(state) > DISC_RADIUS:
                return state

    def is_success(self, state: Floats, goal: Floats) -> bool:
        """Disc and block lie within 20 of 512 together, and the block turned within 20 degrees."""
        turned = abs(float(state[4] - goal[4])) % (2 * np.pi)
        near = float(np.linalg.norm(state[:4] - goal[:4])) < SUCCESS_DISTANCE
        return near and min(turned, 2 * np.pi - turned) < SUCCESS_ANGLE

    def success_features(self, states: Floats) -> Floats:
        """Where the disc and the block are, and how the block is turned."""
        return np.concatenate([states[..., :4], angle_features(states[..., 4])], -1)

    def is_nontrivial(self, start: Floats, goal: Floats) -> bool:
        """The block itself has to be moved or turned."""
        without = np.concatenate([goal[:2], start[2:]])
        return not self.is_success(without, goal)

    def build_space(self, state: Floats) -> PhysicsSpace:
        space = pymunk.Space()
        space.damping = 0
        for part in _walls():
            space.add(pymunk.Poly(space.static_body, part.tolist()))
        agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        agent.position = (float(state[0]), float(state[1]))
        agent.velocity = (float(state[5]), float(state[6]))
        # As published: the stem is given the bar's moment of inertia.
        block = pymunk.Body(MASS, 2 * pymunk.moment_for_poly(MASS, BAR.tolist()))
        # In this order: pymunk finds the middle of mass by the angle when it is told the place.
        block.center_of_gravity, block.angle = CENTER_OF_MASS, float(state[4])
        block.position = (float(state[2]), float(state[3]))
        space.add(agent, block, pymunk.Circle(agent, DISC_RADIUS))
        space.add(*(pymunk.Poly(block, part.tolist()) for part in (BAR, STEM)))
        return PhysicsSpace(
            space, (agent, block), action_origin=np.clip(state[:2], *POSITION_RANGE)
        )

    def apply_action(self, stage: PhysicsSpace, action: Floats, seconds: float) -> None:
        """A spring towards the target, with drag."""
        agent = stage.bodies[0]
        velocity = []
        for axis in (0, 1):
            to = min(
                max(
                    float(stage.action_origin[axis] + MAX_TARGET_DISTANCE * action[axis]),
                    POSITION_RANGE[0],
                ),
                POSITION_RANGE[1],
            )
            pull = (
                SPRING_STIFFNESS * (to - agent.position[axis])
                - SPRING_DAMPING * agent.velocity[axis]
            )
            velocity.append(agent.velocity[axis] + pull * seconds)
        agent.velocity = (velocity[0], velocity[1])

    def read_state(self, stage: PhysicsSpace, before: Floats) -> Floats:
        agent, block = stage.bodies
        angle = block.angle % (2 * np.pi)
        return np.array([*agent.position, *block.position, angle, *agent.velocity], np.float32)

    def scene(self) -> Scene:
        return _scene()

    def poses(self, state: Floats) -> Floats:
        # The picture's y goes up, the table's down: places are mirrored, and angles with them.
        parts = (
            np.stack([part.mean(0) for part in (BAR, STEM)]) @ _rotation_matrix(state[4])
            + state[2:4]
        )
        places = np.concatenate([parts, state[None, :2]])
        places = np.stack([places[:, 0], TABLE_SIZE - places[:, 1]], axis=1) * (
            VIEW_METERS / TABLE_SIZE
        )
        angles = np.array([-state[4], -state[4], 0.0])
        return np.concatenate([places, angles[:, None]], axis=1).astype(np.float32)


def _rotation_matrix(angle: float) -> Floats:
    """What turns row vectors by an angle, [2, 2]."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]], np.float32)


def center_of_mass(state: Floats) -> Floats:
    """Of the block, on the table, [2]."""
    middle: Floats = state[2:4] + np.array(CENTER_OF_MASS, np.float32) @ _rotation_matrix(state[4])
    return middle


def _block_vertices(state: Floats) -> Floats:
    """Corners of the block on the table, [8, 2]."""
    placed: Floats = np.concatenate([BAR, STEM]) @ _rotation_matrix(state[4]) + state[2:4]
    return placed


def _disc_block_distance(state: Floats) -> float:
    """How far the disc's middle is from the block; 0 inside."""
    at = _rotation_matrix(-state[4]).T @ (state[:2] - state[2:4])
    gaps = [np.clip(np.maximum(part[0] - at, at - part[2]), 0, None) for part in (BAR, STEM)]
    return float(min(np.linalg.norm(gap) for gap in gaps))


def _walls() -> list[Floats]:
    """Thick, so that a block that is pushed against one stays on the table."""
    far = TABLE_SIZE + 300
    parts: list[tuple[float, ...]] = [
        (-300, -300, WALL_WIDTH, far),
        (TABLE_SIZE - WALL_WIDTH, -300, far, far),
    ]
    parts += [(-300, -300, far, WALL_WIDTH), (-300, TABLE_SIZE - WALL_WIDTH, far, far)]
    return [rectangle_vertices(*map(float, part)).astype(np.float32) for part in parts]


@functools.cache
def _scene() -> Scene:
    scale = VIEW_METERS / TABLE_SIZE
    grey, blue = (0.47, 0.53, 0.6), (0.25, 0.41, 0.88)
    parts = [(part - part.mean(0)) * scale for part in (BAR, STEM)]
    tee = [
        visual_body("block", 2.5 * BLOCK_UNIT * scale, grey, part.astype(np.float32))
        for part in parts
    ]
    table = Background("plain", ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)))
    edge = WALL_WIDTH * scale
    walls: list[tuple[float, ...]] = [
        (0, 0, edge, VIEW_METERS),
        (VIEW_METERS - edge, 0, VIEW_METERS, VIEW_METERS),
    ]
    walls += [(0, 0, VIEW_METERS, edge), (0, VIEW_METERS - edge, VIEW_METERS, VIEW_METERS)]
    solids = tuple(
        StaticPolygon(rectangle_vertices(*wall), (0.83, 0.83, 0.83), "wall") for wall in walls
    )
    return Scene(
        "push-t",
        (*tee, visual_body("disc", DISC_RADIUS * scale, blue)),
        solids,
        table,
        outline_brightness=1.0,
    )


class PushTCollector:
    """Legs of three kinds, drawn one after another: a push through the block from behind it, a
    straight way to somewhere near it, which grazes or misses, and, near it, actions of noise.

    A planner tries what no purpose would do: where pushes were all that the data showed, models of
    the states themselves foresaw its plans four times worse (ARCHITECTURE.md).
    """

    approach_radius, contact_distance, noise = 110.0, 60.0, 0.08
    segment_kinds, segment_shares = ("push", "stray", "drift"), (0.4, 0.35, 0.25)
    stray_std, noise_radius = (
        75.0,
        170.0,
    )  # how far strays scatter about the block, and where drifts begin

    def __init__(self) -> None:
        self._way: list[Floats] = []
        self._left, self._pace = 0, 1.0
        self._drift = _CorrelatedNoise()

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        state = environment.state
        at, middle = state[:2], center_of_mass(state)
        if not self._drift.steps_left and not self._way:
            self._next_segment(at, middle, rng)
        if self._drift.steps_left:
            return np.clip(self._drift(rng), -1, 1).astype(np.float32)
        step = self._way[0] - at
        self._left -= 1
        if np.linalg.norm(step) < 25 or self._left < 0:
            self._way.pop(0)
            self._left = 20
        length = max(float(np.linalg.norm(step)), 1e-6)
        action = step / length * min(self._pace, length / MAX_TARGET_DISTANCE)
        return np.clip(action + rng.normal(0, self.noise, 2), -1, 1).astype(np.float32)

    def _next_segment(self, at: Floats, middle: Floats, rng: np.random.Generator) -> None:
        """Draw the next leg."""
        kind = rng.choice(self.segment_kinds, p=self.segment_shares)
        self._left = 20
        if kind == "drift" and np.linalg.norm(at - middle) < self.noise_radius:
            self._drift = _CorrelatedNoise.sample(rng)
        elif kind == "push":
            self._pace = float(rng.uniform(0.4, 0.9))
            self._way = self._plan_push(at, middle, rng)
        else:
            self._pace = float(rng.uniform(0.2, 1.0))
            self._way = [_clip_to_table(middle + rng.normal(0, self.stray_std, 2))]

    def _plan_push(self, at: Floats, middle: Floats, rng: np.random.Generator) -> list[Floats]:
        """Places on a circle about the block until it lies between the disc and where it shall go,
        then the way through it."""
        to = rng.uniform(160, 350, 2)  # never a wall, or the block would end in a corner
        along = (to - middle) / max(float(np.linalg.norm(to - middle)), 1e-6)
        now = float(np.arctan2(at[1] - middle[1], at[0] - middle[0]))
        behind = float(np.arctan2(-along[1], -along[0]))
        turn = (behind - now + np.pi) % (2 * np.pi) - np.pi
        stops = [now + turn * part for part in np.linspace(0, 1, 1 + int(np.ceil(abs(turn) / 0.7)))]
        circle = [middle + self.approach_radius * np.array([np.cos(a), np.sin(a)]) for a in stops]
        aside = rng.normal(0, 25, 2)  # off the middle, so that the block turns as well
        return [
            _clip_to_table(place) for place in (*circle, to - along * self.contact_distance + aside)
        ]


@dataclass
class _CorrelatedNoise:
    """Actions of noise that remember the one before: of one strength and memory for some steps."""

    steps_left: int = 0
    std: float = 0.0
    autocorrelation: float = 0.0
    action: Floats = field(default_factory=lambda: np.zeros(2, np.float32))

    @classmethod
    def sample(cls, rng: np.random.Generator) -> _CorrelatedNoise:
        return cls(int(rng.integers(8, 26)), rng.uniform(0.3, 1.0), rng.uniform(0, 0.9))

    def __call__(self, rng: np.random.Generator) -> Floats:
        self.steps_left -= 1
        fresh = np.sqrt(1 - self.autocorrelation**2) * rng.normal(0, self.std, 2)
        self.action = (self.autocorrelation * self.action + fresh).astype(np.float32)
        return self.action


def _clip_to_table(place: npt.NDArray[np.floating]) -> Floats:
    """The nearest place that the disc can be at."""
    kept: Floats = np.clip(place, *POSITION_RANGE).astype(np.float32)
    return kept
