"""Simulate the video of (scene type, seed, index), with its ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.physics.distractors import moving_background, sample_distractors
from orchestrator.physics.renderer import render
from orchestrator.physics.scene import VIEW_METERS, Floats, Scene, Trajectory
from orchestrator.physics.scenes import SCENE_BUILDERS
from orchestrator.physics.simulation import simulate_motion
from orchestrator.physics.suite.training_videos import sample_training_scene
from orchestrator.physics.uri import MOVING_BACKGROUND, STATIC_BACKGROUND, SUITE_PREFIX
from orchestrator.randomness import generator

SIMULATOR_VERSION = 2  # part of the identity of packed datasets
STATE_COLUMNS = ("x", "y", "angle", "vx", "vy", "omega", "size", "visible")
MAX_ATTEMPTS = 64
ACCEPTANCE_SECONDS = 5.0  # scenes are accepted by their first seconds, whatever the length
MIN_SPEED = 0.25  # m/s: something moves at least this fast ...
MIN_MOVING_SHARE = 0.6  # ... in this share of them
MIN_IN_VIEW_SHARE = 0.94  # share of them in which every body's centre is in view


@dataclass(frozen=True)
class SimulatedVideo:
    """A simulated video.

    Metres, seconds, radians; x right, y up from the picture's lower left corner; the picture
    shows `meta["view"]` metres, so pixel = (x * size / view, size - y * size / view).
    """

    frames: npt.NDArray[np.uint8]
    """`[T, H, W, 3]`, frame t at time t / fps."""
    states: Floats
    """`[T, objects, 8]`, columns as in `STATE_COLUMNS`; visible is a share from 0 to 1."""
    meta: dict[str, Any]
    """Scene type, objects, contacts and the rest, as plain JSON values."""


def simulate_video(
    scene_type: str,
    seed: int,
    index: int,
    *,
    size: int = 128,
    fps: float = 24.0,
    seconds: float = 5.0,
    distractors: int = 2,
    background: str = STATIC_BACKGROUND,
) -> SimulatedVideo:
    """Simulate and render one scene; a pure function of its arguments.

    Args:
        scene_type: a key of `scenes.SCENE_BUILDERS`, or `suite-` and a scenario of the test suites.
        size: pixels of the square picture.
        seconds: length; the video has round(fps * seconds) frames.
        distractors: maximum number of distractors in a scene.
        background: `still`, or `moving`: the same scene before textures that drift.

    Raises:
        RuntimeError: no draw shows what the family is about (a fault of the family).
    """
    frames = round(fps * seconds)
    if scene_type in SCENE_BUILDERS:
        scene, seen = _sample_scene(scene_type, seed, index, frames, fps, distractors)
    else:
        scene, seen = sample_training_scene(
            scene_type.removeprefix(SUITE_PREFIX),
            index,
            fps=fps,
            frames=frames,
            seed=seed,
            distractors=distractors,
        )
    if background == MOVING_BACKGROUND:
        behind = moving_background(generator(seed, index, "backdrop"), scene.background, fps)
        scene = replace(scene, background=behind)
    pictures, visible = render(scene, seen.poses, size)
    sizes = np.broadcast_to([thing.size for thing in scene.things], visible.shape)
    states = np.concatenate([seen.poses, sizes[..., None], visible[..., None]], axis=2)
    return SimulatedVideo(
        pictures,
        states.astype(np.float32),
        _metadata(scene, seen, seed=seed, index=index, size=size),
    )


def _sample_scene(
    family: str, seed: int, index: int, frames: int, fps: float, distractors: int
) -> tuple[Scene, Trajectory]:
    """Sample scenes of a type until one is accepted."""
    judged = round(fps * ACCEPTANCE_SECONDS)
    for attempt in range(MAX_ATTEMPTS):
        # The stream depends on the scene type: else equal indices would have equal colours.
        rng = generator(
            seed, index, "physics", list(SCENE_BUILDERS).index(family) * MAX_ATTEMPTS + attempt
        )
        scene = SCENE_BUILDERS[family](rng)
        seen = simulate_motion(scene, max(frames, judged), fps)
        if _is_accepted(scene, seen.first_frames(judged)):
            return _with_distractors(rng, scene, seen.first_frames(frames), distractors)
    raise RuntimeError(f"no usable '{family}' scene for seed {seed}, index {index}")


def _is_accepted(scene: Scene, seen: Trajectory) -> bool:
    """Whether bodies stay in view, motion continues, and the scene type's event happens."""
    centres, velocities = seen.poses[:, :, :2], seen.poses[:, :, 3:5]
    inside = ((centres > 0) & (centres < VIEW_METERS)).all(axis=2)
    moves = np.linalg.norm(velocities, axis=2).max(axis=1) > MIN_SPEED
    return bool(
        inside.mean(axis=0).min() >= MIN_IN_VIEW_SHARE
        and moves.mean() >= MIN_MOVING_SHARE
        and scene.event_occurred(seen)
    )


def _with_distractors(
    rng: np.random.Generator, scene: Scene, seen: Trajectory, most: int
) -> tuple[Scene, Trajectory]:
    """Add distractors, simulated in a separate space, so that nothing collides with them."""
    others = sample_distractors(rng, scene, seen, most)
    if others is None:
        return scene, seen
    moved = simulate_motion(others, len(seen.poses), seen.fps)
    first = len(scene.things)
    strings = tuple((first + number, anchor) for number, anchor in others.pendulum_anchors)
    both = replace(
        scene,
        things=scene.things + others.things,
        solids=scene.solids + others.solids,
        pendulum_anchors=strings,
    )
    return both, replace(seen, poses=np.concatenate([seen.poses, moved.poses], axis=1))


def _metadata(scene: Scene, seen: Trajectory, **given: Any) -> dict[str, Any]:
    return {
        "family": scene.family,
        **given,
        "fps": seen.fps,
        "simulator": SIMULATOR_VERSION,
        "view": VIEW_METERS,
        "gravity": scene.gravity,
        "columns": list(STATE_COLUMNS),
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
        "solids": [{"name": s.name, "corners": s.vertices.tolist()} for s in scene.solids],
        "screens": [[s.left, s.bottom, s.right, s.top] for s in scene.screens],
        "contacts": [{"time": c.time, "a": c.a, "b": c.b, "speed": c.speed} for c in seen.contacts],
    }
