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
from orchestrator.physics.scene import VIEW, Contact, Scene, Solid, Thing, rectangle
from orchestrator.physics.scenes.common import foot, room
from orchestrator.physics.simulation import run
from orchestrator.physics.suite.scenario import Lab, floor_only
from orchestrator.randomness import generator

ARROWS = ("bounces", "falling", "scatter")
TRIES = 256
PATIENCE = 64  # tries for a balanced pair; where a fraction of a second is predicted there is none
HARD = 1.5  # m/s of an impact that shows time's direction
SPARE = 1.5  # seconds of film beyond what is shown, to choose from

Film = npt.NDArray[np.uint8]
_PARTS = 2**22 + 2**12  # beside the draws of `sanity`


@dataclass(frozen=True)
class Arrow:
    """A possible video, and its reverse."""

    forward: Film
    """`[T, size, size, 3]`."""
    backward: Film
    """What follows the frames seen is the same as in `forward`, the last frame first."""


def make_arrow(
    kind: str, split: str, number: int, *, size: int, fps: float, frames: int, seen: int, seed: int
) -> Arrow:
    """One pair, a pure function of its arguments.

    Args:
        kind: one of `ARROWS`.
        split: one of `suite.SPLITS`.
        frames: length T of both videos.
        seen: frames of them that are looked at before anything is predicted.
    """
    splits = ("validation", "test", "ood")
    first = _PARTS + (ARROWS.index(kind) * len(splits) + splits.index(split)) * TRIES
    long = frames + seen + round(SPARE * fps)
    coin = bool(number & 1)
    edge = int(frames - seen == 1)  # no impact lies between two predicted frames if there is one
    for attempt in range(TRIES):
        rng = generator(seed, number, "physics", first + attempt)
        # In the middle of what is predicted, when half of the spare film is cut from the front.
        moment = (seen + (frames - seen) / 2 + SPARE / 2 * fps) / fps
        scene = _BUILDERS[kind](Lab(rng, split == "ood", coin, long, fps), moment)
        motion = run(scene, long, fps)
        film, _ = render(scene, motion.poses, size)
        hits = [int(c.time * fps) for c in motion.contacts if _tells(kind, c)]
        for start in rng.permutation(long - frames - seen + 1):
            if not any(seen - edge <= hit - start <= frames - 2 + edge for hit in hits):
                continue
            whole = film[start : start + frames + seen]
            if attempt >= PATIENCE or _easier(whole.astype(np.int16), seen) == coin:
                return Arrow(whole[:frames].copy(), whole[::-1][:frames].copy())
    raise RuntimeError(f"no usable pair {number} of '{kind}' ({split}) for seed {seed}")


def _tells(kind: str, contact: Contact) -> bool:
    """Whether an impact shows the direction of time: energy is lost, or spread."""
    between = contact.a.startswith("thing") and contact.b.startswith("thing")
    return contact.speed > HARD and between == (kind == "scatter")


def _easier(whole: npt.NDArray[np.int16], seen: int) -> bool | None:
    """Whether it is forwards that change begins smaller and that the last frame seen is nearer
    to what comes; False if both are so backwards, None if neither."""
    last, first = whole[seen - 1], whole[len(whole) - seen]
    ahead = whole[seen : len(whole) - seen]
    step = np.abs(ahead[0] - last).mean() - np.abs(ahead[-1] - first).mean()
    apart = np.abs(ahead - last).mean() - np.abs(ahead - first).mean()
    return bool(step < 0) if step * apart > 0 else None


def _bounces(lab: Lab, moment: float) -> Scene:
    """A thing bounces on the floor, each time less high."""
    floor = lab.uniform(0.4, 1.2)
    made = lab.body(shapes=("ball", "ball", "hexagon"), restitution=(0.6, 0.75))
    high = floor + foot(made) + lab.gravity / 2 * lab.uniform(0.8, 1.05) ** 2
    across = lab.uniform(0.3, 0.9) * (1 if lab.rng.random() < 0.5 else -1)
    x = VIEW / 2 - across * moment
    made = replace(made, pose=(x, high, 0.0), velocity=(across, 0.0, lab.uniform(-1, 1)))
    return _scene(lab, (made,), tuple(room(lab.palette, floor)), lab.gravity)


def _falling(lab: Lab, moment: float) -> Scene:
    """A thing comes to the end of a shelf, falls, and stays down."""
    floor = lab.uniform(0.4, 0.9)
    # After a long fall it is slower than before: the coin asks for the other order.
    height = floor + (lab.uniform(0.5, 1.6) if lab.coin else lab.uniform(1.6, 4.5))
    way = 1 if lab.rng.random() < 0.5 else -1
    made = replace(lab.body(shapes=("ball",)), restitution=0.05)
    speed = lab.uniform(0.8, 1.3)
    end = VIEW / 2 - way * lab.uniform(0.0, 1.5)
    drop = float(np.sqrt(2 * (height - floor) / lab.gravity))
    made = lab.on(made, end - way * speed * (moment - drop), height, way * speed)
    far = end - way * 4 * VIEW
    shelf = rectangle(min(far, end), height - lab.uniform(0.18, 0.24), max(far, end), height)
    solids = (*floor_only(lab.palette, floor), Solid(shelf, lab.palette.solid(), "shelf"))
    return _scene(lab, (made,), solids, lab.gravity)


def _scatter(lab: Lab, moment: float) -> Scene:
    """Seen from above, a puck strikes others at rest, and all of them move."""
    striker = lab.body(shapes=("ball",), size=(0.4, 0.5) if lab.coin else (0.6, 0.75))
    reach = lab.uniform(0.5, 0.62) if lab.coin else lab.uniform(0.35, 0.42)
    heading = lab.uniform(0, 2 * np.pi)
    along = np.array([np.cos(heading), np.sin(heading)])
    aside = np.array([-along[1], along[0]])
    middle = np.array([lab.uniform(4.2, 5.8), lab.uniform(4.2, 5.8)])
    speed = lab.uniform(2.0, 3.0) * lab.pace
    start = middle - along * (speed * moment + reach + striker.size)
    made = [_puck(replace(striker, mass=2.0), start, speed * along)]
    pitch = 2.1 * reach
    for row, side in ((0.0, 0.15), (0.9, -0.5), (0.9, 0.5)):
        other = replace(lab.body(shapes=("ball",)), size=reach, role="target", mass=1.0)
        made.append(_puck(other, middle + pitch * (row * along + side * aside), 0 * along))
    return _scene(lab, tuple(made), (), 0.0)


def _puck(made: Thing, at: npt.NDArray[np.float64], velocity: npt.NDArray[np.float64]) -> Thing:
    pose, moves = (float(at[0]), float(at[1]), 0.0), (float(velocity[0]), float(velocity[1]), 0.0)
    return replace(made, pose=pose, velocity=moves, restitution=0.95, friction=0.1)


def _scene(lab: Lab, things: tuple[Thing, ...], solids: tuple[Solid, ...], gravity: float) -> Scene:
    backdrop = lab.palette.backdrop()
    return Scene("arrow", things, solids, backdrop, lab.palette.rim, gravity=gravity)


_BUILDERS = {"bounces": _bounces, "falling": _falling, "scatter": _scatter}
