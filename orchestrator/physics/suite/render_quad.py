"""A draft becomes four videos with their ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.physics.distractors import sample_distractors
from orchestrator.physics.renderer import render
from orchestrator.physics.scene import VIEW_METERS, Floats, Trajectory
from orchestrator.physics.simulation import simulate_motion
from orchestrator.physics.suite.scenario import QuadTrajectories, ScenarioDraft

POSITION_TOLERANCE = 0.01  # metres: motions that differ by less are drawn alike
VELOCITY_TOLERANCE = (
    0.5  # metres a second by which speeds differ after an impact, not at the start of a fall
)
MIN_EQUAL_FRAMES = (
    3  # frames before the break in which nothing tells the contexts apart, at the least
)
MIN_VISIBLE_SHARE = 0.02  # share of a thing that counts as visible

Bools = npt.NDArray[np.bool_]
Video = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RenderedQuad:
    """The four cells of a quad, each field `[2, 2, T, ...]`, and the break; see `suite.Quad`."""

    videos: Video
    break_frame: int
    states: Floats
    visible: Bools
    contacts: Bools


def with_distractors(
    rng: np.random.Generator, draft: ScenarioDraft, max_count: int
) -> ScenarioDraft:
    """The same bystanders in all four cells, clear of everything in each of them."""
    first, second = draft.scenes
    (a, b), (c, d) = draft.trajectories
    every = replace(first, solids=first.solids + second.solids)
    seen = replace(a, poses=np.concatenate([one.poses for one in (a, b, c, d)]))
    others = sample_distractors(rng, every, seen, max_count)
    if others is None:
        return draft
    moved = simulate_motion(others, len(a.poses), a.fps).poses
    strings = tuple((len(first.things) + n, anchor) for n, anchor in others.pendulum_anchors)
    scenes = tuple(
        replace(
            scene,
            things=scene.things + others.things,
            solids=scene.solids + others.solids,
            pendulum_anchors=strings,
        )
        for scene in (first, second)
    )
    a, b, c, d = (
        replace(one, poses=np.concatenate([one.poses, moved], axis=1)) for one in (a, b, c, d)
    )
    return replace(draft, scenes=(scenes[0], scenes[1]), trajectories=((a, b), (c, d)))


def render_quad(draft: ScenarioDraft, size: int) -> RenderedQuad | None:
    """The cells of a draft; None if it has no break, or is not hidden where it has to be."""
    return (
        _splice_videos(draft, size)
        if draft.break_is_occluded
        else _render_in_each_context(draft, size)
    )


def has_constant_context_difference(cells: RenderedQuad) -> bool:
    """Whether the contexts' pictures differ by the same pixels after the break all the time."""
    after = cells.videos[:, :, cells.break_frame - 1 :].astype(np.int16)
    between = after[0] - after[1]
    return bool((between == between[:, :1]).all())


def _splice_videos(draft: ScenarioDraft, size: int) -> RenderedQuad | None:
    """Cut both possible videos where they show the same, and join them crosswise."""
    runs = (draft.trajectories[0][0], draft.trajectories[1][1])
    films, shares = zip(
        *(render(s, r.poses, size) for s, r in zip(draft.scenes, runs, strict=True)), strict=True
    )
    t_break = _end_of_equal_frames(films[0], films[1], round(draft.earliest_break_s * runs[0].fps))
    if t_break is None:
        return None
    states = [_pixel_states(draft, k, runs[k], shares[k], size) for k in (0, 1)]
    contacts = [_contact_frames(one) for one in runs]

    def cross(parts: list[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
        rows = [
            np.stack([np.concatenate([before[:t_break], after[t_break:]]) for after in parts])
            for before in parts
        ]
        return np.stack(rows)

    return RenderedQuad(
        cross(list(films)).astype(np.uint8, copy=False),
        t_break,
        cross([one[0] for one in states]).astype(np.float32, copy=False),
        cross([one[1] for one in states]).astype(np.bool_, copy=False),
        cross(list(contacts)).astype(np.bool_, copy=False),
    )


def _end_of_equal_frames(first: Video, second: Video, since: int) -> int | None:
    """Where the first `MIN_EQUAL_FRAMES` or more equal frames that last beyond `since` end."""
    same = (first == second).all(axis=(1, 2, 3))
    length = 0
    for frame, equal in enumerate(same):
        if not equal and length >= MIN_EQUAL_FRAMES and frame > since:
            return frame
        length = length + 1 if equal else 0
    return None


def _render_in_each_context(draft: ScenarioDraft, size: int) -> RenderedQuad | None:
    """Draw each outcome's motion in each context's scene."""
    t_break = first_divergent_frame(draft.trajectories)
    if t_break is None or _velocities_differ(draft.trajectories, t_break - 1):
        return None
    cells = []
    for context, scene in enumerate(draft.scenes):
        begun = draft.trajectories[context][0]
        for outcome in (0, 1):
            motion = _splice_trajectories(begun, draft.trajectories[context][outcome], t_break)
            film, share = render(scene, motion.poses, size)
            cells.append(
                (film, *_pixel_states(draft, context, motion, share, size), _contact_frames(motion))
            )
    films, states, visible, contacts = (
        np.stack(part).reshape(2, 2, *part[0].shape) for part in zip(*cells, strict=True)
    )
    # The same poses are drawn with other roundings when the motion that follows is another.
    films[:, 1, :t_break] = films[:, 0, :t_break]
    visible[:, 1, :t_break] = visible[:, 0, :t_break]
    return RenderedQuad(films, t_break, states, visible, contacts)


def first_divergent_frame(runs: QuadTrajectories) -> int | None:
    """The first frame in which the outcomes of a context differ."""
    places = [[run.poses[:, :, :3] for run in row] for row in runs]
    apart = [np.abs(row[0] - row[1]).max(axis=(1, 2)) > POSITION_TOLERANCE for row in places]
    frames = [int(np.argmax(one)) for one in apart]
    return min(frames) if min(frames) > 0 else None


def _velocities_differ(runs: QuadTrajectories, frame: int) -> bool:
    """Whether outcomes of one context are already on their ways, though at one place still.

    The last frame that they share would show a thing just after the impact, and its state would
    be right for one outcome only.
    """
    speeds = [[run.poses[frame, :, 3:5] for run in row] for row in runs]
    return any(bool((np.abs(a - b) > VELOCITY_TOLERANCE).any()) for a, b in speeds)


def _splice_trajectories(before: Trajectory, after: Trajectory, t_break: int) -> Trajectory:
    poses = np.concatenate([before.poses[:t_break], after.poses[t_break:]])
    cut = (t_break - 1) / before.fps
    contacts = [c for c in before.contacts if c.time < cut]
    contacts += [c for c in after.contacts if c.time >= cut]
    return Trajectory(poses, contacts, before.fps)


def _contact_frames(seen: Trajectory) -> Bools:
    """Whether an impact began since the frame before, `[T]`."""
    hit = np.zeros(len(seen.poses), np.bool_)
    for contact in seen.contacts:
        frame = int(contact.time * seen.fps + 1e-6) + 1
        if frame < len(hit):
            hit[frame] = True
    return hit


def _pixel_states(
    draft: ScenarioDraft, context: int, seen: Trajectory, share: Floats, size: int
) -> tuple[Floats, Bools]:
    """States `[T, objects, 4]` in pixels, y down, and visibility `[T, objects]`.

    The objects: those that move, bystanders, and the piece of scenery that the contexts do not
    share (NaN where it is absent). With identities, object `context` replaces thing 0.
    """
    scale = size / VIEW_METERS
    x, y, vx, vy = (seen.poses[:, :, k] for k in (0, 1, 3, 4))
    states = np.stack([x * scale, size - y * scale, vx * scale, -vy * scale], axis=2)
    visible = share > MIN_VISIBLE_SHARE
    if draft.object_per_context:
        states = np.insert(states, 1 - context, np.nan, axis=1)
        visible = np.insert(visible, 1 - context, False, axis=1)
    if draft.prop_centers != (None, None):
        place = draft.prop_centers[context]
        still = np.full(4, np.nan) if place is None else _static_state(place, size)
        states = np.concatenate([states, np.broadcast_to(still, (len(states), 1, 4))], axis=1)
        there = np.full((len(visible), 1), place is not None)
        visible = np.concatenate([visible, there], axis=1)
    return states.astype(np.float32), visible


def _static_state(place: tuple[float, float], size: int) -> npt.NDArray[np.float64]:
    scale = size / VIEW_METERS
    return np.array([place[0] * scale, size - place[1] * scale, 0.0, 0.0])
