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

from orchestrator.environments.base import Collector, Floats, World
from orchestrator.environments.rigid_body import RigidWorld, Stage, cosine_sine, plain
from orchestrator.physics.scene import VIEW, Backdrop, Scene, Solid, rectangle

SIDE, WALL, DISC, UNIT = 512.0, 7.0, 15.0, 30.0  # WALL: how far the walls' faces are from the edge
REACH = (WALL + DISC, SIDE - WALL - DISC)
FARTHEST, STIFFNESS, DRAG = (
    100.0,
    100.0,
    20.0,
)  # the disc's target: at most this far, and how it goes
NEAR, TURNED = 20.0, np.pi / 9
BAR = rectangle(-2 * UNIT, 0, 2 * UNIT, UNIT)
STEM = rectangle(-UNIT / 2, UNIT, UNIT / 2, 4 * UNIT)
MIDDLE = (0.0, 1.5 * UNIT)  # of mass: halfway between the middles of bar and stem
MASS = 1.0


class PushT(RigidWorld):
    """Action: where the disc strives to from where it is, x and y in [-1, 1] times 100 of 512.

    The block's state is the place of the middle of its bar's upper edge, and its angle. There is no
    momentum on the table: a block that nobody pushes stands still.
    """

    version = 2
    rate = 10.0
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
    bounds = (REACH, REACH, (0, SIDE), (0, SIDE), (0, 2 * np.pi), (-SIDE, SIDE), (-SIDE, SIDE))

    @classmethod
    def collector(cls) -> Collector:
        return PushingAbout()

    def draw(self, rng: np.random.Generator) -> Floats:
        """Disc and block anywhere, apart from each other."""
        while True:
            agent, block = rng.uniform(50, 450, 2), rng.uniform(100, 400, 2)
            state = np.array([*agent, *block, rng.uniform(0, 2 * np.pi), 0, 0], np.float32)
            inside = bool(((_corners(state) > WALL) & (_corners(state) < SIDE - WALL)).all())
            if inside and _gap(state) > DISC:
                return state

    def reached(self, state: Floats, goal: Floats) -> bool:
        """Disc and block lie within 20 of 512 together, and the block turned within 20 degrees."""
        turned = abs(float(state[4] - goal[4])) % (2 * np.pi)
        near = float(np.linalg.norm(state[:4] - goal[:4])) < NEAR
        return near and min(turned, 2 * np.pi - turned) < TURNED

    def judged(self, states: Floats) -> Floats:
        """Where the disc and the block are, and how the block is turned."""
        return np.concatenate([states[..., :4], cosine_sine(states[..., 4])], -1)

    def worthwhile(self, start: Floats, goal: Floats) -> bool:
        """The block itself has to be moved or turned."""
        without = np.concatenate([goal[:2], start[2:]])
        return not self.reached(without, goal)

    def stage(self, state: Floats) -> Stage:
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
        block.center_of_gravity, block.angle = MIDDLE, float(state[4])
        block.position = (float(state[2]), float(state[3]))
        space.add(agent, block, pymunk.Circle(agent, DISC))
        space.add(*(pymunk.Poly(block, part.tolist()) for part in (BAR, STEM)))
        return Stage(space, (agent, block), aim=np.clip(state[:2], *REACH))

    def drive(self, stage: Stage, action: Floats, seconds: float) -> None:
        """A spring towards the target, with drag."""
        agent = stage.bodies[0]
        velocity = []
        for axis in (0, 1):
            to = min(max(float(stage.aim[axis] + FARTHEST * action[axis]), REACH[0]), REACH[1])
            pull = STIFFNESS * (to - agent.position[axis]) - DRAG * agent.velocity[axis]
            velocity.append(agent.velocity[axis] + pull * seconds)
        agent.velocity = (velocity[0], velocity[1])

    def read(self, stage: Stage, before: Floats) -> Floats:
        agent, block = stage.bodies
        angle = block.angle % (2 * np.pi)
        return np.array([*agent.position, *block.position, angle, *agent.velocity], np.float32)

    def scene(self) -> Scene:
        return _scene()

    def poses(self, state: Floats) -> Floats:
        # The picture's y goes up, the table's down: places are mirrored, and angles with them.
        parts = np.stack([part.mean(0) for part in (BAR, STEM)]) @ _turn(state[4]) + state[2:4]
        places = np.concatenate([parts, state[None, :2]])
        places = np.stack([places[:, 0], SIDE - places[:, 1]], axis=1) * (VIEW / SIDE)
        angles = np.array([-state[4], -state[4], 0.0])
        return np.concatenate([places, angles[:, None]], axis=1).astype(np.float32)


def _turn(angle: float) -> Floats:
    """What turns row vectors by an angle, [2, 2]."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]], np.float32)


def middle_of_mass(state: Floats) -> Floats:
    """Of the block, on the table, [2]."""
    middle: Floats = state[2:4] + np.array(MIDDLE, np.float32) @ _turn(state[4])
    return middle


def _corners(state: Floats) -> Floats:
    """Corners of the block on the table, [8, 2]."""
    placed: Floats = np.concatenate([BAR, STEM]) @ _turn(state[4]) + state[2:4]
    return placed


def _gap(state: Floats) -> float:
    """How far the disc's middle is from the block; 0 inside."""
    at = _turn(-state[4]).T @ (state[:2] - state[2:4])
    gaps = [np.clip(np.maximum(part[0] - at, at - part[2]), 0, None) for part in (BAR, STEM)]
    return float(min(np.linalg.norm(gap) for gap in gaps))


def _walls() -> list[Floats]:
    """Thick, so that a block that is pushed against one stays on the table."""
    far = SIDE + 300
    parts: list[tuple[float, ...]] = [(-300, -300, WALL, far), (SIDE - WALL, -300, far, far)]
    parts += [(-300, -300, far, WALL), (-300, SIDE - WALL, far, far)]
    return [rectangle(*map(float, part)).astype(np.float32) for part in parts]


@functools.cache
def _scene() -> Scene:
    scale = VIEW / SIDE
    grey, blue = (0.47, 0.53, 0.6), (0.25, 0.41, 0.88)
    parts = [(part - part.mean(0)) * scale for part in (BAR, STEM)]
    tee = [plain("block", 2.5 * UNIT * scale, grey, part.astype(np.float32)) for part in parts]
    table = Backdrop("plain", ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)))
    edge = WALL * scale
    walls: list[tuple[float, ...]] = [(0, 0, edge, VIEW), (VIEW - edge, 0, VIEW, VIEW)]
    walls += [(0, 0, VIEW, edge), (0, VIEW - edge, VIEW, VIEW)]
    solids = tuple(Solid(rectangle(*wall), (0.83, 0.83, 0.83), "wall") for wall in walls)
    return Scene("push-t", (*tee, plain("disc", DISC * scale, blue)), solids, table, rim=1.0)


class PushingAbout:
    """Legs of three kinds, drawn one after another: a push through the block from behind it, a
    straight way to somewhere near it, which grazes or misses, and, near it, actions of noise.

    A planner tries what no purpose would do: where pushes were all that the data showed, models of
    the states themselves foresaw its plans four times worse (ARCHITECTURE.md).
    """

    around, touch, noise = 110.0, 60.0, 0.08
    kinds, share = ("push", "stray", "drift"), (0.4, 0.35, 0.25)
    beside, near = 75.0, 170.0  # how far strays scatter about the block, and where drifts begin

    def __init__(self) -> None:
        self._way: list[Floats] = []
        self._left, self._pace = 0, 1.0
        self._drift = _Drift()

    def __call__(self, world: World, rng: np.random.Generator) -> Floats:
        state = world.state
        at, middle = state[:2], middle_of_mass(state)
        if not self._drift.left and not self._way:
            self._begin(at, middle, rng)
        if self._drift.left:
            return np.clip(self._drift(rng), -1, 1).astype(np.float32)
        step = self._way[0] - at
        self._left -= 1
        if np.linalg.norm(step) < 25 or self._left < 0:
            self._way.pop(0)
            self._left = 20
        length = max(float(np.linalg.norm(step)), 1e-6)
        action = step / length * min(self._pace, length / FARTHEST)
        return np.clip(action + rng.normal(0, self.noise, 2), -1, 1).astype(np.float32)

    def _begin(self, at: Floats, middle: Floats, rng: np.random.Generator) -> None:
        """Draw the next leg."""
        kind = rng.choice(self.kinds, p=self.share)
        self._left = 20
        if kind == "drift" and np.linalg.norm(at - middle) < self.near:
            self._drift = _Drift.drawn(rng)
        elif kind == "push":
            self._pace = float(rng.uniform(0.4, 0.9))
            self._way = self._push(at, middle, rng)
        else:
            self._pace = float(rng.uniform(0.2, 1.0))
            self._way = [_kept(middle + rng.normal(0, self.beside, 2))]

    def _push(self, at: Floats, middle: Floats, rng: np.random.Generator) -> list[Floats]:
        """Places on a circle about the block until it lies between the disc and where it shall go,
        then the way through it."""
        to = rng.uniform(160, 350, 2)  # never a wall, or the block would end in a corner
        along = (to - middle) / max(float(np.linalg.norm(to - middle)), 1e-6)
        now = float(np.arctan2(at[1] - middle[1], at[0] - middle[0]))
        behind = float(np.arctan2(-along[1], -along[0]))
        turn = (behind - now + np.pi) % (2 * np.pi) - np.pi
        stops = [now + turn * part for part in np.linspace(0, 1, 1 + int(np.ceil(abs(turn) / 0.7)))]
        circle = [middle + self.around * np.array([np.cos(a), np.sin(a)]) for a in stops]
        aside = rng.normal(0, 25, 2)  # off the middle, so that the block turns as well
        return [_kept(place) for place in (*circle, to - along * self.touch + aside)]


@dataclass
class _Drift:
    """Actions of noise that remember the one before: of one strength and memory for some steps."""

    left: int = 0
    strength: float = 0.0
    memory: float = 0.0
    action: Floats = field(default_factory=lambda: np.zeros(2, np.float32))

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> _Drift:
        return cls(int(rng.integers(8, 26)), rng.uniform(0.3, 1.0), rng.uniform(0, 0.9))

    def __call__(self, rng: np.random.Generator) -> Floats:
        self.left -= 1
        fresh = np.sqrt(1 - self.memory**2) * rng.normal(0, self.strength, 2)
        self.action = (self.memory * self.action + fresh).astype(np.float32)
        return self.action


def _kept(place: npt.NDArray[np.floating]) -> Floats:
    """The nearest place that the disc can be at."""
    kept: Floats = np.clip(place, *REACH).astype(np.float32)
    return kept
