"""Two Rooms: a dot, a wall with one door, and nothing else to learn but where it can go.

The proportions are those of stable-worldmodel's default Two Rooms (224 pixels there), so that the
same budget of control steps means the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from orchestrator.environments.base import Collector, Environment, Floats, ImageArray
from orchestrator.errors import RequestError

Bools = npt.NDArray[np.bool_]

# In units of 224 to a side, as there.
ROOM_SIZE, BORDER_WIDTH, WALL_THICKNESS, DOOR_CENTER, DOOR_HALF_WIDTH = (
    224.0,
    14.0,
    10.0,
    49.0,
    14.0,
)
DOT_RADIUS, MAX_STEP, SUCCESS_RADIUS = 7.0, 5.0, 16.0
MIN_POSITION, MAX_POSITION = BORDER_WIDTH + DOT_RADIUS, ROOM_SIZE - BORDER_WIDTH - DOT_RADIUS
WALL_LEFT, WALL_RIGHT = ROOM_SIZE / 2 - WALL_THICKNESS / 2, ROOM_SIZE / 2 + WALL_THICKNESS / 2


class TwoRooms(Environment):
    """State: x and y of the dot, of 224. Action: its step, each axis in [-1, 1] times 5."""

    control_rate = 10.0
    state_names = ("x", "y")

    def __init__(self, size: int = 64) -> None:
        super().__init__(size)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = Box(MIN_POSITION, MAX_POSITION, (2,), np.float32)
        self._position = np.zeros(2, np.float32)
        self._background = self._draw_background()

    @property
    def state(self) -> Floats:
        return self._position.copy()

    def set_state(self, state: Floats) -> None:
        given = np.asarray(state, np.float32)
        if given.shape != (2,) or not bool(_is_free(given)):
            raise RequestError(
                f"the state {given.tolist()} is outside the rooms, or in the wall",
                where="two-rooms",
                hint=f"x and y from {MIN_POSITION:g} to {MAX_POSITION:g},"
                f" {DOT_RADIUS:g} away from the wall",
            )
        self._position = given.copy()

    def sample_state(self, rng: np.random.Generator) -> Floats:
        while True:
            at = rng.uniform(MIN_POSITION, MAX_POSITION, 2).astype(np.float32)
            if bool(_is_free(at)):
                return at

    @classmethod
    def make_collector(cls) -> Collector:
        return TwoRoomsCollector()

    def advance(self, action: Floats) -> None:
        self._position = next_position(self._position, action)

    def rollout(self, states: Floats, actions: Floats) -> Floats:
        at, reached = states, []
        for step in range(actions.shape[1]):
            at = next_position(at, np.clip(actions[:, step], -1, 1))
            reached.append(at)
        return np.stack(reached, 1)

    def is_success(self, state: Floats, goal: Floats) -> bool:
        return float(np.linalg.norm(state - goal)) < SUCCESS_RADIUS

    def is_nontrivial(self, start: Floats, goal: Floats) -> bool:
        """One in each room, and neither in the doorway."""
        left, right = WALL_LEFT - DOT_RADIUS, WALL_RIGHT + DOT_RADIUS
        return bool(
            (start[0] <= left and goal[0] >= right) or (start[0] >= right and goal[0] <= left)
        )

    def render_state(self, state: Floats) -> ImageArray:
        pixels = (np.arange(self.size, dtype=np.float32) + 0.5) * (ROOM_SIZE / self.size)
        dx, dy = pixels[None, :] - state[0], pixels[:, None] - state[1]
        dot = np.exp(-(dx**2 + dy**2) / (2 * DOT_RADIUS**2))[..., None]
        red = np.array([255.0, 0.0, 0.0], np.float32)
        shown = self._background * (1 - dot) + red * dot
        drawn: ImageArray = shown.round().astype(np.uint8)
        return drawn

    def _draw_background(self) -> Floats:
        """The picture without the dot, float32 [size, size, 3]."""
        fine = 4  # samples to a pixel's side: walls are thinner than pixels
        at = (np.arange(self.size * fine, dtype=np.float32) + 0.5) * (ROOM_SIZE / self.size / fine)
        inside = (at > BORDER_WIDTH) & (at < ROOM_SIZE - BORDER_WIDTH)
        edge = (at > BORDER_WIDTH - 4) & (at < ROOM_SIZE - BORDER_WIDTH + 4)
        border = (edge[:, None] & edge[None, :]) & ~(inside[:, None] & inside[None, :])
        wall = (
            (at[None, :] > WALL_LEFT)
            & (at[None, :] < WALL_RIGHT)
            & (abs(at[:, None] - DOOR_CENTER) > DOOR_HALF_WIDTH)
        )
        dark = border | (wall & inside[:, None])
        light = 1 - dark.reshape(self.size, fine, self.size, fine).mean((1, 3), dtype=np.float32)
        return np.repeat(light[..., None] * np.float32(255), 3, axis=-1)


def next_position(at: Floats, action: Floats) -> Floats:
    """Where steps lead, one axis after the other: walls are slid along. [..., 2] -> [..., 2]."""
    after = at.copy()
    for axis in (0, 1):
        tried = after.copy()
        tried[..., axis] = np.clip(
            tried[..., axis] + MAX_STEP * action[..., axis], MIN_POSITION, MAX_POSITION
        )
        free = _is_free(tried)
        after[..., axis] = np.where(free, tried[..., axis], after[..., axis])
    return after


def _is_free(at: Floats) -> Bools:
    """Whether the dot touches neither the border nor the wall."""
    x, y = at[..., 0], at[..., 1]
    in_rooms = (x >= MIN_POSITION) & (x <= MAX_POSITION) & (y >= MIN_POSITION) & (y <= MAX_POSITION)
    in_door = abs(y - DOOR_CENTER) <= DOOR_HALF_WIDTH - DOT_RADIUS
    beside = (x <= WALL_LEFT - DOT_RADIUS) | (x >= WALL_RIGHT + DOT_RADIUS)
    free: Bools = in_rooms & (beside | in_door)
    return free


class TwoRoomsCollector:
    """Walks to places it chooses, with noise on its steps: through the door where it must, or now
    and then straight on, for a while, whatever is in the way. Walls must have been run into."""

    noise, tolerance, straight_line_share, max_straight_steps = 0.5, 8.0, 0.4, 15

    def __init__(self) -> None:
        self._to: Floats | None = None
        self._straight = False
        self._left = 0

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        at = environment.state
        self._left -= 1
        given_up = self._straight and self._left < 0
        if self._to is None or given_up or np.linalg.norm(at - self._to) < self.tolerance:
            self._to = environment.sample_state(rng)
            self._straight = bool(rng.random() < self.straight_line_share)
            self._left = self.max_straight_steps
        step = (self._to if self._straight else self._waypoint(at, self._to)) - at
        step = step / max(float(np.linalg.norm(step)), 1e-6) + rng.normal(0, self.noise, 2)
        return np.clip(step, -1, 1).astype(np.float32)

    def _waypoint(self, at: Floats, to: Floats) -> Floats:
        middle = np.float32(ROOM_SIZE / 2)
        if (at[0] < middle) == (to[0] < middle):
            return to
        if (
            abs(at[1] - DOOR_CENTER) <= DOOR_HALF_WIDTH - DOT_RADIUS
        ):  # in front of the door: go on through it
            return np.array([to[0], DOOR_CENTER], np.float32)
        before = WALL_LEFT - DOT_RADIUS - 2 if at[0] < middle else WALL_RIGHT + DOT_RADIUS + 2
        return np.array([before, DOOR_CENTER], np.float32)
