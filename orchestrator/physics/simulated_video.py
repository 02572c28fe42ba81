"""One call from (family, seed, index) to a video with its ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.physics.distractors import bystanders, moving_backdrop
from orchestrator.physics.renderer import render
from orchestrator.physics.scene import VIEW, Floats, Scene, Trajectory
from orchestrator.physics.scenes import FAMILIES
from orchestrator.physics.simulation import run
from orchestrator.physics.suite.training_videos import lesson
from orchestrator.physics.uri import LESSONS, MOVING, STILL
from orchestrator.randomness import generator

VERSION = 2  # of what the simulator draws: another number gives another dataset
COLUMNS = ("x", "y", "angle", "vx", "vy", "omega", "size", "visible")
TRIES = 64
JUDGED_SECONDS = 5.0  # a scene is judged by its first seconds, however long the video is
LIVELY = 0.25  # m/s: something moves at least this fast ...
LIVELY_SHARE = 0.6  # ... in this share of them
IN_VIEW = 0.94  # share of them that every thing's centre is in the picture


@dataclass(frozen=True)
class Simulation:
    """A simulated video.

    Metres, seconds, radians; x right, y up from the picture's lower left corner; the picture
    shows `meta["view"]` metres, so pixel = (x * size / view, size - y * size / view).
    """

    frames: npt.NDArray[np.uint8]
    """`[T, H, W, 3]`, frame t at time t / fps."""
    states: Floats
    """`[T, objects, 8]`, columns as in `COLUMNS`; visible is a share from 0 to 1."""
    meta: dict[str, Any]
    """Family, objects, contacts and everything else as plain JSON values."""


def simulate(
    family: str,
    seed: int,
    index: int,
    *,
    size: int = 128,
    fps: float = 24.0,
    seconds: float = 5.0,
    distractors: int = 2,
    background: str = STILL,
) -> Simulation:
    """Simulate and draw one scene; a pure function of its arguments.

    Args:
        family: a key of `scenes.FAMILIES`, or `suite-` and a scenario of the test suites.
        size: pixels of the square picture.
        seconds: length; the video has round(fps * seconds) frames.
        distractors: most bystanders that a scene may have.
        background: `still`, or `moving`: the same scene before textures that drift.

    Raises:
        RuntimeError: no draw shows what the family is about (a fault of the family).
    """
    frames = round(fps * seconds)
    if family in FAMILIES:
        scene, seen = _scene_of(family, seed, index, frames, fps, distractors)
    else:
        scene, seen = lesson(
            family.removeprefix(LESSONS),
            index,
            fps=fps,
            frames=frames,
            seed=seed,
            distractors=distractors,
        )
    if background == MOVING:
        behind = moving_backdrop(generator(seed, index, "backdrop"), scene.backdrop, fps)
        scene = replace(scene, backdrop=behind)
    pictures, visible = render(scene, seen.poses, size)
    sizes = np.broadcast_to([thing.size for thing in scene.things], visible.shape)
    states = np.concatenate([seen.poses, sizes[..., None], visible[..., None]], axis=2)
    return Simulation(
        pictures, states.astype(np.float32), _meta(scene, seen, seed=seed, index=index, size=size)
    )


def _scene_of(
    family: str, seed: int, index: int, frames: int, fps: float, distractors: int
) -> tuple[Scene, Trajectory]:
    """The first draw of a family that shows what it is about."""
    judged = round(fps * JUDGED_SECONDS)
    for attempt in range(TRIES):
        # Families differ in their draws too, or the same index had the same colours in each.
        rng = generator(seed, index, "physics", list(FAMILIES).index(family) * TRIES + attempt)
        scene = FAMILIES[family](rng)
        seen = run(scene, max(frames, judged), fps)
        if _is_good(scene, seen.first(judged)):
            return _with_bystanders(rng, scene, seen.first(frames), distractors)
    raise RuntimeError(f"no usable '{family}' scene for seed {seed}, index {index}")


def _is_good(scene: Scene, seen: Trajectory) -> bool:
    """Things stay in view, motion goes on, and what the family is about does happen."""
    centres, velocities = seen.poses[:, :, :2], seen.poses[:, :, 3:5]
    inside = ((centres > 0) & (centres < VIEW)).all(axis=2)
    moves = np.linalg.norm(velocities, axis=2).max(axis=1) > LIVELY
    return bool(
        inside.mean(axis=0).min() >= IN_VIEW and moves.mean() >= LIVELY_SHARE and scene.shows(seen)
    )


def _with_bystanders(
    rng: np.random.Generator, scene: Scene, seen: Trajectory, most: int
) -> tuple[Scene, Trajectory]:
    """Add bystanders, which run in a space of their own: nothing touches them."""
    others = bystanders(rng, scene, seen, most)
    if others is None:
        return scene, seen
    moved = run(others, len(seen.poses), seen.fps)
    first = len(scene.things)
    strings = tuple((first + number, anchor) for number, anchor in others.strings)
    both = replace(
        scene,
        things=scene.things + others.things,
        solids=scene.solids + others.solids,
        strings=strings,
    )
    return both, replace(seen, poses=np.concatenate([seen.poses, moved.poses], axis=1))


def _meta(scene: Scene, seen: Trajectory, **given: Any) -> dict[str, Any]:
    return {
        "family": scene.family,
        **given,
        "fps": seen.fps,
        "simulator": VERSION,
        "view": VIEW,
        "gravity": scene.gravity,
        "columns": list(COLUMNS),
        "objects": [
            {
                "role": thing.role,
                "shape": thing.shape,
                "mass": thing.mass,
                "size": thing.size,
                "colour": [round(255 * part) for part in thing.colour],
                "restitution": thing.restitution,
                "friction": thing.friction,
                "corners": None if thing.corners is None else thing.corners.tolist(),
            }
            for thing in scene.things
        ],
        "solids": [{"name": s.name, "corners": s.corners.tolist()} for s in scene.solids],
        "screens": [[s.left, s.bottom, s.right, s.top] for s in scene.screens],
        "contacts": [{"time": c.time, "a": c.a, "b": c.b, "speed": c.speed} for c in seen.contacts],
    }
