"""A draft becomes four videos with their ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.physics.distractors import bystanders
from orchestrator.physics.renderer import render
from orchestrator.physics.scene import VIEW, Floats, Trajectory
from orchestrator.physics.simulation import run
from orchestrator.physics.suite.scenario import Draft, Runs

PARTED = 0.01  # metres: motions that differ by less are drawn alike
TURNED = 0.5  # metres a second by which speeds differ after an impact, not at the start of a fall
GONE = 3  # frames before the break in which nothing tells the contexts apart, at the least
SEEN = 0.02  # share of a thing that counts as visible

Bools = npt.NDArray[np.bool_]
Film = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Cells:
    """The four cells of a quad, each field `[2, 2, T, ...]`, and the break; see `suite.Quad`."""

    videos: Film
    t_break: int
    states: Floats
    visible: Bools
    contacts: Bools


def with_bystanders(rng: np.random.Generator, draft: Draft, most: int) -> Draft:
    """The same bystanders in all four cells, clear of everything in each of them."""
    first, second = draft.scenes
    (a, b), (c, d) = draft.runs
    every = replace(first, solids=first.solids + second.solids)
    seen = replace(a, poses=np.concatenate([one.poses for one in (a, b, c, d)]))
    others = bystanders(rng, every, seen, most)
    if others is None:
        return draft
    moved = run(others, len(a.poses), a.fps).poses
    strings = tuple((len(first.things) + n, anchor) for n, anchor in others.strings)
    scenes = tuple(
        replace(
            scene,
            things=scene.things + others.things,
            solids=scene.solids + others.solids,
            strings=strings,
        )
        for scene in (first, second)
    )
    a, b, c, d = (
        replace(one, poses=np.concatenate([one.poses, moved], axis=1)) for one in (a, b, c, d)
    )
    return replace(draft, scenes=(scenes[0], scenes[1]), runs=((a, b), (c, d)))


def draw(draft: Draft, size: int) -> Cells | None:
    """The cells of a draft; None if it has no break, or is not hidden where it has to be."""
    return _joined(draft, size) if draft.hidden else _set_in_scenery(draft, size)


def keeps_apart(cells: Cells) -> bool:
    """Whether the contexts' pictures differ by the same pixels after the break all the time."""
    after = cells.videos[:, :, cells.t_break - 1 :].astype(np.int16)
    between = after[0] - after[1]
    return bool((between == between[:, :1]).all())


def _joined(draft: Draft, size: int) -> Cells | None:
    """Cut both possible videos where they show the same, and join them crosswise."""
    runs = (draft.runs[0][0], draft.runs[1][1])
    films, shares = zip(
        *(render(s, r.poses, size) for s, r in zip(draft.scenes, runs, strict=True)), strict=True
    )
    t_break = _end_of_shared(films[0], films[1], round(draft.since * runs[0].fps))
    if t_break is None:
        return None
    states = [_states(draft, k, runs[k], shares[k], size) for k in (0, 1)]
    contacts = [_contacts(one) for one in runs]

    def cross(parts: list[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
        rows = [
            np.stack([np.concatenate([before[:t_break], after[t_break:]]) for after in parts])
            for before in parts
        ]
        return np.stack(rows)

    return Cells(
        cross(list(films)).astype(np.uint8, copy=False),
        t_break,
        cross([one[0] for one in states]).astype(np.float32, copy=False),
        cross([one[1] for one in states]).astype(np.bool_, copy=False),
        cross(list(contacts)).astype(np.bool_, copy=False),
    )


def _end_of_shared(first: Film, second: Film, since: int) -> int | None:
    """Where the first run of at least `GONE` equal frames that lasts beyond `since` ends."""
    same = (first == second).all(axis=(1, 2, 3))
    length = 0
    for frame, equal in enumerate(same):
        if not equal and length >= GONE and frame > since:
            return frame
        length = length + 1 if equal else 0
    return None


def _set_in_scenery(draft: Draft, size: int) -> Cells | None:
    """Draw each outcome's motion in each context's scene."""
    t_break = parting(draft.runs)
    if t_break is None or _turned(draft.runs, t_break - 1):
        return None
    cells = []
    for context, scene in enumerate(draft.scenes):
        begun = draft.runs[context][0]
        for outcome in (0, 1):
            motion = _spliced(begun, draft.runs[context][outcome], t_break)
            film, share = render(scene, motion.poses, size)
            cells.append((film, *_states(draft, context, motion, share, size), _contacts(motion)))
    films, states, visible, contacts = (
        np.stack(part).reshape(2, 2, *part[0].shape) for part in zip(*cells, strict=True)
    )
    # The same poses are drawn with other roundings when the motion that follows is another.
    films[:, 1, :t_break] = films[:, 0, :t_break]
    visible[:, 1, :t_break] = visible[:, 0, :t_break]
    return Cells(films, t_break, states, visible, contacts)


def parting(runs: Runs) -> int | None:
    """The first frame in which the outcomes of a context differ."""
    places = [[run.poses[:, :, :3] for run in row] for row in runs]
    apart = [np.abs(row[0] - row[1]).max(axis=(1, 2)) > PARTED for row in places]
    frames = [int(np.argmax(one)) for one in apart]
    return min(frames) if min(frames) > 0 else None


def _turned(runs: Runs, frame: int) -> bool:
    """Whether outcomes of one context are already on their ways, though at one place still.

    The last frame that they share would show a thing just after the impact, and its state would
    be right for one outcome only.
    """
    speeds = [[run.poses[frame, :, 3:5] for run in row] for row in runs]
    return any(bool((np.abs(a - b) > TURNED).any()) for a, b in speeds)


def _spliced(before: Trajectory, after: Trajectory, t_break: int) -> Trajectory:
    poses = np.concatenate([before.poses[:t_break], after.poses[t_break:]])
    cut = (t_break - 1) / before.fps
    contacts = [c for c in before.contacts if c.time < cut]
    contacts += [c for c in after.contacts if c.time >= cut]
    return Trajectory(poses, contacts, before.fps)


def _contacts(seen: Trajectory) -> Bools:
    """Whether an impact began since the frame before, `[T]`."""
    hit = np.zeros(len(seen.poses), np.bool_)
    for contact in seen.contacts:
        frame = int(contact.time * seen.fps + 1e-6) + 1
        if frame < len(hit):
            hit[frame] = True
    return hit


def _states(
    draft: Draft, context: int, seen: Trajectory, share: Floats, size: int
) -> tuple[Floats, Bools]:
    """States `[T, objects, 4]` in pixels, y down, and visibility `[T, objects]`.

    The objects: those that move, bystanders, and the piece of scenery that the contexts do not
    share (NaN where it is absent). With identities, object `context` replaces thing 0.
    """
    scale = size / VIEW
    x, y, vx, vy = (seen.poses[:, :, k] for k in (0, 1, 3, 4))
    states = np.stack([x * scale, size - y * scale, vx * scale, -vy * scale], axis=2)
    visible = share > SEEN
    if draft.identities:
        states = np.insert(states, 1 - context, np.nan, axis=1)
        visible = np.insert(visible, 1 - context, False, axis=1)
    if draft.props != (None, None):
        place = draft.props[context]
        still = np.full(4, np.nan) if place is None else _still(place, size)
        states = np.concatenate([states, np.broadcast_to(still, (len(states), 1, 4))], axis=1)
        there = np.full((len(visible), 1), place is not None)
        visible = np.concatenate([visible, there], axis=1)
    return states.astype(np.float32), visible


def _still(place: tuple[float, float], size: int) -> npt.NDArray[np.float64]:
    scale = size / VIEW
    return np.array([place[0] * scale, size - place[1] * scale, 0.0, 0.0])
