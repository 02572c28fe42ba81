"""The arrow of time: a possible video against the same one run backwards.

Both show the same frames to be predicted, in opposite order, each after what really lies on its
own side of them: so the amount of change says nothing. In every other video (where there is one)
both repeating the last frame seen and expecting no change do better forwards, else both do worse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.physics.renderer import render
from orchestrator.physics.scene import (
    VIEW_METERS,
    Contact,
    RigidBody,
    Scene,
    StaticPolygon,
    rectangle_vertices,
)
from orchestrator.physics.scenes.common import bottom_offset, floor_and_walls
from orchestrator.physics.simulation import simulate_motion
from orchestrator.physics.suite.scenario import ScenarioSampler, floor_without_walls
from orchestrator.randomness import generator

ARROW_OF_TIME_KINDS = ("bounces", "falling", "scatter")
MAX_ATTEMPTS = 256
STRICT_ATTEMPTS = (
    64  # tries for a balanced pair; where a fraction of a second is predicted there is none
)
MIN_IMPACT_SPEED = 1.5  # m/s of an impact that shows time's direction
SPARE_SECONDS = 1.5  # seconds of film beyond what is shown, to choose from

Video = npt.NDArray[np.uint8]
_PART_OFFSET = 2**22 + 2**12  # beside the draws of `sanity`


@dataclass(frozen=True)
class ArrowOfTimePair:
    """A possible video, and its reverse."""

    forward: Video
    """`[T, size, size, 3]`."""
    backward: Video
    """What follows the frames seen is the same as in `forward`, the last frame first."""


def make_arrow_of_time_pair(
    kind: str,
    split: str,
    index: int,
    *,
    size: int,
    fps: float,
    frames: int,
    context_frames: int,
    seed: int,
) -> ArrowOfTimePair:
    """One pair, a pure function of its arguments.

    Args:
        kind: one of `ARROW_OF_TIME_KINDS`.
        split: one of `suite.SPLITS`.
        frames: length T of both videos.
        context_frames: frames of them that are looked at before anything is predicted.
    """
    splits = ("validation", "test", "ood")
    first = (
        _PART_OFFSET
        + (ARROW_OF_TIME_KINDS.index(kind) * len(splits) + splits.index(split)) * MAX_ATTEMPTS
    )
    long = frames + context_frames + round(SPARE_SECONDS * fps)
    coin = bool(index & 1)
    edge = int(
        frames - context_frames == 1
    )  # no impact lies between two predicted frames if there is one
    for attempt in range(MAX_ATTEMPTS):
        rng = generator(seed, index, "physics", first + attempt)
        # In the middle of what is predicted, when half of the spare film is cut from the front.
        moment = (context_frames + (frames - context_frames) / 2 + SPARE_SECONDS / 2 * fps) / fps
        scene = _BUILDERS[kind](ScenarioSampler(rng, split == "ood", coin, long, fps), moment)
        motion = simulate_motion(scene, long, fps)
        film, _ = render(scene, motion.poses, size)
        hits = [int(c.time * fps) for c in motion.contacts if _shows_time_direction(kind, c)]
        for start in rng.permutation(long - frames - context_frames + 1):
            if not any(context_frames - edge <= hit - start <= frames - 2 + edge for hit in hits):
                continue
            whole = film[start : start + frames + context_frames]
            if (
                attempt >= STRICT_ATTEMPTS
                or _forward_is_easier(whole.astype(np.int16), context_frames) == coin
            ):
                return ArrowOfTimePair(whole[:frames].copy(), whole[::-1][:frames].copy())
    raise RuntimeError(f"no usable pair {index} of '{kind}' ({split}) for seed {seed}")


def _shows_time_direction(kind: str, contact: Contact) -> bool:
    """Whether an impact shows the direction of time: energy is lost, or spread."""
    between = contact.a.startswith("thing") and contact.b.startswith("thing")
    return contact.speed > MIN_IMPACT_SPEED and between == (kind == "scatter")


def _forward_is_easier(whole: npt.NDArray[np.int16], seen: int) -> bool | None:
    """Whether it is forwards that change begins smaller and that the last frame seen is nearer
    to what comes; False if both are so backwards, None if neither."""
    last, first = whole[seen - 1], whole[len(whole) - seen]
    ahead = whole[seen : len(whole) - seen]
    step = np.abs(ahead[0] - last).mean() - np.abs(ahead[-1] - first).mean()
    apart = np.abs(ahead - last).mean() - np.abs(ahead - first).mean()
    return bool(step < 0) if step * apart > 0 else None


def _bounces(lab: ScenarioSampler, moment: float) -> Scene:
    """A thing bounces on the floor, each time less high."""
    floor = lab.uniform(0.4, 1.2)
    made = lab.sample_body(shapes=("ball", "ball", "hexagon"), restitution=(0.6, 0.75))
    high = floor + bottom_offset(made) + lab.gravity / 2 * lab.uniform(0.8, 1.05) ** 2
    across = lab.uniform(0.3, 0.9) * (1 if lab.rng.random() < 0.5 else -1)
    x = VIEW_METERS / 2 - across * moment
    made = replace(made, pose=(x, high, 0.0), velocity=(across, 0.0, lab.uniform(-1, 1)))
    return _scene(lab, (made,), tuple(floor_and_walls(lab.palette, floor)), lab.gravity)


def _falling(lab: ScenarioSampler, moment: float) -> Scene:
    """A thing comes to the end of a shelf, falls, and stays down."""
    floor = lab.uniform(0.4, 0.9)
    # After a long fall it is slower than before: the coin asks for the other order.
    height = floor + (lab.uniform(0.5, 1.6) if lab.counterbalance else lab.uniform(1.6, 4.5))
    way = 1 if lab.rng.random() < 0.5 else -1
    made = replace(lab.sample_body(shapes=("ball",)), restitution=0.05)
    speed = lab.uniform(0.8, 1.3)
    end = VIEW_METERS / 2 - way * lab.uniform(0.0, 1.5)
    drop = float(np.sqrt(2 * (height - floor) / lab.gravity))
    made = lab.place_on_ground(made, end - way * speed * (moment - drop), height, way * speed)
    far = end - way * 4 * VIEW_METERS
    shelf = rectangle_vertices(
        min(far, end), height - lab.uniform(0.18, 0.24), max(far, end), height
    )
    solids = (
        *floor_without_walls(lab.palette, floor),
        StaticPolygon(shelf, lab.palette.static_colour(), "shelf"),
    )
    return _scene(lab, (made,), solids, lab.gravity)


def _scatter(lab: ScenarioSampler, moment: float) -> Scene:
    """Seen from above, a puck strikes others at rest, and all of them move."""
    striker = lab.sample_body(
        shapes=("ball",), size=(0.4, 0.5) if lab.counterbalance else (0.6, 0.75)
    )
    reach = lab.uniform(0.5, 0.62) if lab.counterbalance else lab.uniform(0.35, 0.42)
    heading = lab.uniform(0, 2 * np.pi)
    along = np.array([np.cos(heading), np.sin(heading)])
    aside = np.array([-along[1], along[0]])
    middle = np.array([lab.uniform(4.2, 5.8), lab.uniform(4.2, 5.8)])
    speed = lab.uniform(2.0, 3.0) * lab.speed_factor
    start = middle - along * (speed * moment + reach + striker.size)
    made = [_set_puck_motion(replace(striker, mass=2.0), start, speed * along)]
    pitch = 2.1 * reach
    for row, side in ((0.0, 0.15), (0.9, -0.5), (0.9, 0.5)):
        other = replace(lab.sample_body(shapes=("ball",)), size=reach, role="target", mass=1.0)
        made.append(
            _set_puck_motion(other, middle + pitch * (row * along + side * aside), 0 * along)
        )
    return _scene(lab, tuple(made), (), 0.0)


def _set_puck_motion(
    made: RigidBody, at: npt.NDArray[np.float64], velocity: npt.NDArray[np.float64]
) -> RigidBody:
    pose, moves = (float(at[0]), float(at[1]), 0.0), (float(velocity[0]), float(velocity[1]), 0.0)
    return replace(made, pose=pose, velocity=moves, restitution=0.95, friction=0.1)


def _scene(
    lab: ScenarioSampler,
    things: tuple[RigidBody, ...],
    solids: tuple[StaticPolygon, ...],
    gravity: float,
) -> Scene:
    backdrop = lab.palette.sample_background()
    return Scene("arrow", things, solids, backdrop, lab.palette.outline_brightness, gravity=gravity)


_BUILDERS = {"bounces": _bounces, "falling": _falling, "scatter": _scatter}
