"""Two Rooms: a dot moves in two rooms that are separated by a wall with one door.

The proportions are those of stable-worldmodel's default Two Rooms (224 pixels), so that budgets of
control steps are comparable.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from orchestrator.environments.base import Collector, Environment, Floats, ImageArray
from orchestrator.errors import RequestError

Bools = npt.NDArray[np.bool_]

# In stable-worldmodel's units: 224 per side.
ROOM_SIZE, BORDER_WIDTH, WALL_THICKNESS = 224.0, 14.0, 10.0
DOOR_CENTER, DOOR_HALF_WIDTH = 49.0, 14.0
DOT_RADIUS, MAX_STEP, SUCCESS_RADIUS = 7.0, 5.0, 16.0
MIN_POSITION, MAX_POSITION = BORDER_WIDTH + DOT_RADIUS, ROOM_SIZE - BORDER_WIDTH - DOT_RADIUS
WALL_LEFT, WALL_RIGHT = ROOM_SIZE / 2 - WALL_THICKNESS / 2, ROOM_SIZE / 2 + WALL_THICKNESS / 2


class TwoRooms(Environment):
    """Two Rooms: state x, y of the dot (0 to 224); the action is its step, [-1, 1] times 5."""

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
        state = np.asarray(state, np.float32)
        if state.shape != (2,) or not bool(_is_free(state)):
            raise RequestError(
                f"the state {state.tolist()} is outside the rooms, or in the wall",
                where="two-rooms",
                hint=f"x and y from {MIN_POSITION:g} to {MAX_POSITION:g},"
                f" {DOT_RADIUS:g} away from the wall",
            )
        self._position = state.copy()

    def sample_state(self, rng: np.random.Generator) -> Floats:
        while True:
            position = rng.uniform(MIN_POSITION, MAX_POSITION, 2).astype(np.float32)
            if bool(_is_free(position)):
                return position

    @classmethod
    def make_collector(cls) -> Collector:
        return TwoRoomsCollector()

    def advance(self, action: Floats) -> None:
        self._position = next_position(self._position, action)

    def rollout(self, states: Floats, actions: Floats) -> Floats:
        positions, trajectory = states, []
        for step in range(actions.shape[1]):
            positions = next_position(positions, np.clip(actions[:, step], -1, 1))
            trajectory.append(positions)
        return np.stack(trajectory, 1)

    def is_success(self, state: Floats, goal: Floats) -> bool:
        return float(np.linalg.norm(state - goal)) < SUCCESS_RADIUS

    def is_nontrivial(self, start: Floats, goal: Floats) -> bool:
        """Whether start and goal are in different rooms, and neither is in the doorway."""
        left, right = WALL_LEFT - DOT_RADIUS, WALL_RIGHT + DOT_RADIUS
        return bool(
            (start[0] <= left and goal[0] >= right) or (start[0] >= right and goal[0] <= left)
        )

    def render_state(self, state: Floats) -> ImageArray:
        pixels = (np.arange(self.size, dtype=np.float32) + 0.5) * (ROOM_SIZE / self.size)
        dx, dy = pixels[None, :] - state[0], pixels[:, None] - state[1]
        dot = np.exp(-(dx**2 + dy**2) / (2 * DOT_RADIUS**2))[..., None]
        red = np.array([255.0, 0.0, 0.0], np.float32)
        blended = self._background * (1 - dot) + red * dot
        image: ImageArray = blended.round().astype(np.uint8)
        return image

    def _draw_background(self) -> Floats:
        """Render the rooms without the dot, float32 [size, size, 3]."""
        fine = 4  # samples per pixel side, because walls are thinner than pixels
        x = (np.arange(self.size * fine, dtype=np.float32) + 0.5) * (ROOM_SIZE / self.size / fine)
        inside = (x > BORDER_WIDTH) & (x < ROOM_SIZE - BORDER_WIDTH)
        edge = (x > BORDER_WIDTH - 4) & (x < ROOM_SIZE - BORDER_WIDTH + 4)
        border = (edge[:, None] & edge[None, :]) & ~(inside[:, None] & inside[None, :])
        wall = (
            (x[None, :] > WALL_LEFT)
            & (x[None, :] < WALL_RIGHT)
            & (abs(x[:, None] - DOOR_CENTER) > DOOR_HALF_WIDTH)
        )
        dark = border | (wall & inside[:, None])
        light = 1 - dark.reshape(self.size, fine, self.size, fine).mean((1, 3), dtype=np.float32)
        return np.repeat(light[..., None] * np.float32(255), 3, axis=-1)


def next_position(position: Floats, action: Floats) -> Floats:
    """Move one axis at a time, so that the dot slides along walls: [..., 2] -> [..., 2]."""
    following = position.copy()
    for axis in (0, 1):
        moved = following.copy()
        moved[..., axis] = np.clip(
            moved[..., axis] + MAX_STEP * action[..., axis], MIN_POSITION, MAX_POSITION
        )
        free = _is_free(moved)
        following[..., axis] = np.where(free, moved[..., axis], following[..., axis])
    return following


def _is_free(position: Floats) -> Bools:
    """Whether the dot touches neither the border nor the wall: [..., 2] -> [...]."""
    x, y = position[..., 0], position[..., 1]
    in_rooms = (x >= MIN_POSITION) & (x <= MAX_POSITION) & (y >= MIN_POSITION) & (y <= MAX_POSITION)
    in_door = abs(y - DOOR_CENTER) <= DOOR_HALF_WIDTH - DOT_RADIUS
    clear_of_wall = (x <= WALL_LEFT - DOT_RADIUS) | (x >= WALL_RIGHT + DOT_RADIUS)
    free: Bools = in_rooms & (clear_of_wall | in_door)
    return free


class TwoRoomsCollector:
    """Walks to random targets with noisy steps, through the door where it is on the way.

    Some walks go straight at the target for a while, so that the data has collisions with walls.
    """

    noise, tolerance, straight_line_share, max_straight_steps = 0.5, 8.0, 0.4, 15

    def __init__(self) -> None:
        self._target: Floats | None = None
        self._straight = False
        self._steps_left = 0

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        position, target = environment.state, self._target
        self._steps_left -= 1
        timed_out = self._straight and self._steps_left < 0
        if target is None or timed_out or np.linalg.norm(position - target) < self.tolerance:
            target = self._target = environment.sample_state(rng)
            self._straight = bool(rng.random() < self.straight_line_share)
            self._steps_left = self.max_straight_steps
        step = (target if self._straight else self._waypoint(position, target)) - position
        step = step / max(float(np.linalg.norm(step)), 1e-6) + rng.normal(0, self.noise, 2)
        return np.clip(step, -1, 1).astype(np.float32)

    def _waypoint(self, position: Floats, target: Floats) -> Floats:
        """The next point to walk to: the target, a point before the door, or one behind it."""
        middle = np.float32(ROOM_SIZE / 2)
        in_left_room = position[0] < middle
        if in_left_room == (target[0] < middle):
            return target
        if abs(position[1] - DOOR_CENTER) <= DOOR_HALF_WIDTH - DOT_RADIUS:
            return np.array([target[0], DOOR_CENTER], np.float32)
        x = WALL_LEFT - DOT_RADIUS - 2 if in_left_room else WALL_RIGHT + DOT_RADIUS + 2
        return np.array([x, DOOR_CENTER], np.float32)
