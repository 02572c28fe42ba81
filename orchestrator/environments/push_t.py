"""Push-T: a disc pushes a T-shaped block on a table.

Lengths, gains and the success criterion are those of stable-worldmodel's Push-T (512 per side, y
down), so that success rates at a budget are comparable. Two things differ: the disc is kept inside
the walls, and the target pose is not drawn into the image, because the goal is given separately.
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

TABLE_SIZE, WALL_WIDTH, DISC_RADIUS, BLOCK_UNIT = 512.0, 7.0, 15.0, 30.0
POSITION_RANGE = (WALL_WIDTH + DISC_RADIUS, TABLE_SIZE - WALL_WIDTH - DISC_RADIUS)
MAX_TARGET_DISTANCE = 100.0  # from the disc to the target of its spring
SPRING_STIFFNESS, SPRING_DAMPING = 100.0, 20.0
SUCCESS_DISTANCE, SUCCESS_ANGLE = 20.0, np.pi / 9
BAR = rectangle_vertices(-2 * BLOCK_UNIT, 0, 2 * BLOCK_UNIT, BLOCK_UNIT)
STEM = rectangle_vertices(-BLOCK_UNIT / 2, BLOCK_UNIT, BLOCK_UNIT / 2, 4 * BLOCK_UNIT)
CENTER_OF_MASS = (0.0, 1.5 * BLOCK_UNIT)  # halfway between the centres of bar and stem
MASS = 1.0


class PushT(RigidBodyEnvironment):
    """Push-T environment: the action is the disc's target relative to it, [-1, 1] times 100 of 512.

    The block's position is the middle of its bar's upper edge. The table takes all momentum: a
    block that is not pushed does not move.
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
        """Sample a state with disc and block anywhere, without contact."""
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
        """Whether the positions differ by less than 20 of 512, and the angle by 20 degrees."""
        angle = abs(float(state[4] - goal[4])) % (2 * np.pi)
        is_near = float(np.linalg.norm(state[:4] - goal[:4])) < SUCCESS_DISTANCE
        return is_near and min(angle, 2 * np.pi - angle) < SUCCESS_ANGLE

    def success_features(self, states: Floats) -> Floats:
        """Positions of disc and block, and the block's angle as cosine and sine: [..., 6]."""
        return np.concatenate([states[..., :4], angle_features(states[..., 4])], -1)

    def is_nontrivial(self, start: Floats, goal: Floats) -> bool:
        """Whether the block has to be moved or turned."""
        block_unmoved = np.concatenate([goal[:2], start[2:]])
        return not self.is_success(block_unmoved, goal)

    def build_space(self, state: Floats) -> PhysicsSpace:
        space = pymunk.Space()
        space.damping = 0
        for part in _walls():
            space.add(pymunk.Poly(space.static_body, part.tolist()))
        agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        agent.position = (float(state[0]), float(state[1]))
        agent.velocity = (float(state[5]), float(state[6]))
        # As in stable-worldmodel: the stem has the bar's moment of inertia.
        block = pymunk.Body(MASS, 2 * pymunk.moment_for_poly(MASS, BAR.tolist()))
        # The angle comes first: pymunk uses it to set the centre of mass with the position.
        block.center_of_gravity, block.angle = CENTER_OF_MASS, float(state[4])
        block.position = (float(state[2]), float(state[3]))
        space.add(agent, block, pymunk.Circle(agent, DISC_RADIUS))
        space.add(*(pymunk.Poly(block, part.tolist()) for part in (BAR, STEM)))
        return PhysicsSpace(
            space, (agent, block), action_origin=np.clip(state[:2], *POSITION_RANGE)
        )

    def apply_action(self, space: PhysicsSpace, action: Floats, seconds: float) -> None:
        """Accelerate the disc by a damped spring to its target."""
        agent, (low, high) = space.bodies[0], POSITION_RANGE
        velocity = []
        for axis in (0, 1):
            target = float(space.action_origin[axis] + MAX_TARGET_DISTANCE * action[axis])
            target = min(max(target, low), high)
            acceleration = (
                SPRING_STIFFNESS * (target - agent.position[axis])
                - SPRING_DAMPING * agent.velocity[axis]
            )
            velocity.append(agent.velocity[axis] + acceleration * seconds)
        agent.velocity = (velocity[0], velocity[1])

    def read_state(self, space: PhysicsSpace, previous_state: Floats) -> Floats:
        agent, block = space.bodies
        angle = block.angle % (2 * np.pi)
        return np.array([*agent.position, *block.position, angle, *agent.velocity], np.float32)

    def scene(self) -> Scene:
        return _scene()

    def poses(self, state: Floats) -> Floats:
        # y points up in the image and down on the table: positions and angles are mirrored.
        parts = (
            np.stack([part.mean(0) for part in (BAR, STEM)]) @ _rotation_matrix(state[4])
            + state[2:4]
        )
        positions = np.concatenate([parts, state[None, :2]])
        positions = np.stack([positions[:, 0], TABLE_SIZE - positions[:, 1]], axis=1) * (
            VIEW_METERS / TABLE_SIZE
        )
        angles = np.array([-state[4], -state[4], 0.0])
        return np.concatenate([positions, angles[:, None]], axis=1).astype(np.float32)


def _rotation_matrix(angle: float) -> Floats:
    """The matrix that rotates row vectors by an angle, [2, 2]."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]], np.float32)


def center_of_mass(state: Floats) -> Floats:
    """The block's centre of mass on the table, [2]."""
    offset = np.array(CENTER_OF_MASS, np.float32) @ _rotation_matrix(state[4])
    center: Floats = state[2:4] + offset
    return center


def _block_vertices(state: Floats) -> Floats:
    """The block's vertices on the table, [8, 2]."""
    vertices: Floats = np.concatenate([BAR, STEM]) @ _rotation_matrix(state[4]) + state[2:4]
    return vertices


def _disc_block_distance(state: Floats) -> float:
    """Distance from the disc's centre to the block; 0 inside it."""
    disc = _rotation_matrix(-state[4]).T @ (state[:2] - state[2:4])
    gaps = [np.clip(np.maximum(part[0] - disc, disc - part[2]), 0, None) for part in (BAR, STEM)]
    return float(min(np.linalg.norm(gap) for gap in gaps))


def _walls() -> list[Floats]:
    """Vertices of the walls, thick so that a block that is pushed against one stays inside."""
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
    """Alternates segments of three kinds: a push through the block, a straight move to a point near
    it, which grazes or misses it, and, close to it, correlated noise.

    A planner also tries aimless actions: with data of pushes only, models of the states predicted
    its plans four times worse (ARCHITECTURE.md).
    """

    approach_radius, contact_distance, noise = 110.0, 60.0, 0.08
    segment_kinds, segment_shares = ("push", "stray", "drift"), (0.4, 0.35, 0.25)
    stray_std = 75.0  # of the targets of straight moves, about the block
    noise_radius = 170.0  # noise segments start within this distance of the block

    def __init__(self) -> None:
        self._waypoints: list[Floats] = []
        self._steps_left, self._speed = 0, 1.0
        self._drift = _CorrelatedNoise()

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        state = environment.state
        disc, block = state[:2], center_of_mass(state)
        if not self._drift.steps_left and not self._waypoints:
            self._next_segment(disc, block, rng)
        if self._drift.steps_left:
            return np.clip(self._drift(rng), -1, 1).astype(np.float32)
        step = self._waypoints[0] - disc
        self._steps_left -= 1
        if np.linalg.norm(step) < 25 or self._steps_left < 0:
            self._waypoints.pop(0)
            self._steps_left = 20
        length = max(float(np.linalg.norm(step)), 1e-6)
        action = step / length * min(self._speed, length / MAX_TARGET_DISTANCE)
        return np.clip(action + rng.normal(0, self.noise, 2), -1, 1).astype(np.float32)

    def _next_segment(self, disc: Floats, block: Floats, rng: np.random.Generator) -> None:
        """Sample the next segment, from the positions of disc and block."""
        kind = rng.choice(self.segment_kinds, p=self.segment_shares)
        self._steps_left = 20
        if kind == "drift" and np.linalg.norm(disc - block) < self.noise_radius:
            self._drift = _CorrelatedNoise.sample(rng)
        elif kind == "push":
            self._speed = float(rng.uniform(0.4, 0.9))
            self._waypoints = self._plan_push(disc, block, rng)
        else:
            self._speed = float(rng.uniform(0.2, 1.0))
            self._waypoints = [_clip_to_table(block + rng.normal(0, self.stray_std, 2))]

    def _plan_push(self, disc: Floats, block: Floats, rng: np.random.Generator) -> list[Floats]:
        """Waypoints on a circle around the block to the side opposite of a sampled target, then
        through the block."""
        target = rng.uniform(160, 350, 2)  # far from the walls: blocks in corners stay there
        direction = (target - block) / max(float(np.linalg.norm(target - block)), 1e-6)
        start = float(np.arctan2(disc[1] - block[1], disc[0] - block[0]))
        behind = float(np.arctan2(-direction[1], -direction[0]))
        arc = (behind - start + np.pi) % (2 * np.pi) - np.pi
        angles = [start + arc * t for t in np.linspace(0, 1, 1 + int(np.ceil(abs(arc) / 0.7)))]
        circle = [block + self.approach_radius * np.array([np.cos(a), np.sin(a)]) for a in angles]
        offset = rng.normal(0, 25, 2)  # an off-centre push also turns the block
        end = target - direction * self.contact_distance + offset
        return [_clip_to_table(point) for point in (*circle, end)]


@dataclass
class _CorrelatedNoise:
    """First-order autoregressive noise, with one strength and autocorrelation for some steps."""

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


def _clip_to_table(point: npt.NDArray[np.floating]) -> Floats:
    """The nearest position that the disc can have."""
    clipped: Floats = np.clip(point, *POSITION_RANGE).astype(np.float32)
    return clipped
