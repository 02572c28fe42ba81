"""What is drawn agrees with what is written down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.physics import simulated_video as module
from orchestrator.physics.renderer import render
from orchestrator.physics.scene import VIEW_METERS, Background, Occluder, RigidBody, Scene
from orchestrator.physics.scenes import SCENE_BUILDERS
from orchestrator.physics.scenes.common import box_vertices, regular_polygon
from orchestrator.physics.simulated_video import simulate_video

BLACK, WHITE, RED = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0)
PLAIN = Background("plain", (BLACK, BLACK))


def _draw(
    thing: RigidBody,
    pose: tuple[float, float, float],
    size: int,
    screens: tuple[Occluder, ...] = (),
) -> tuple[np.ndarray, float]:
    scene = Scene("drop", (thing,), (), PLAIN, outline_brightness=1.0, screens=screens)
    frames, visible = render(scene, np.array([[[*pose, 0, 0, 0]]]), size)
    return frames[0], float(visible[0, 0])


def _supersampled(thing: RigidBody, pose: tuple[float, float, float], size: int) -> np.ndarray:
    """Coverage `[size, size]` by counting 16 x 16 points per pixel."""
    fine = 16
    at = (np.arange(size * fine) + 0.5) * VIEW_METERS / (size * fine)
    dx, dy = np.meshgrid(at - pose[0], at[::-1] - pose[1])
    u = np.cos(pose[2]) * dx + np.sin(pose[2]) * dy
    v = -np.sin(pose[2]) * dx + np.cos(pose[2]) * dy
    if thing.corners is None:
        inside = u**2 + v**2 <= thing.size**2
    else:
        inside = np.ones_like(u, bool)
        ahead = np.roll(thing.corners, -1, axis=0) - thing.corners
        for (cx, cy), (ax, ay) in zip(thing.corners, ahead, strict=True):
            inside &= ax * (v - cy) - ay * (u - cx) >= 0
    return inside.reshape(size, fine, size, fine).mean(axis=(1, 3))


@pytest.mark.parametrize(
    "corners", [None, box_vertices(2.2, 1.0), regular_polygon(3, 1.1), regular_polygon(6, 0.9)]
)
@pytest.mark.parametrize("pose", [(4.03, 5.51, 0.4), (0.2, 9.6, 1.9), (9.9, 0.3, -2.5)])
def test_shapes_match_a_supersampled_drawing(
    corners: np.ndarray | None, pose: tuple[float, float, float]
) -> None:
    size = 1.1 if corners is None else float(np.linalg.norm(corners, axis=1).max())
    thing = RigidBody("any", size, 1.0, pose, WHITE, WHITE, corners=corners)
    drawn = _draw(thing, pose, 64)[0][..., 0] / 255
    wanted = _supersampled(thing, pose, 64)
    assert np.abs(drawn - wanted).mean() < 0.002
    # Distance to a corner's tip is the coarse part of a signed distance: a few pixels only.
    assert (np.abs(drawn - wanted) > 0.2).sum() <= 6


def test_visible_is_the_share_in_the_picture_and_not_behind_a_screen() -> None:
    ball = RigidBody("ball", 1.0, 1.0, (0, 0, 0), WHITE, WHITE)
    assert _draw(ball, (5, 5, 0), 128)[1] == pytest.approx(1, abs=0.02)
    assert _draw(ball, (0, 5, 0), 128)[1] == pytest.approx(0.5, abs=0.02)
    assert _draw(ball, (5, 12, 0), 128)[1] == 0
    screen = (Occluder(5.0, 1.0, 8.0, 9.0, RED),)
    assert _draw(ball, (5, 5, 0), 128, screen)[1] == pytest.approx(0.5, abs=0.02)
    frame, visible = _draw(ball, (6.5, 5, 0), 128, screen)
    assert visible == 0
    empty = _draw(ball, (5, 15, 0), 128, screen)[0]
    np.testing.assert_array_equal(frame, empty)  # the screen is in front, without a trace


@pytest.mark.parametrize("family", SCENE_BUILDERS)
def test_each_thing_is_where_its_state_says(family: str) -> None:
    """The centroid of the pixels that a thing changes lies on its state's x and y."""
    seen: list[tuple[Scene, np.ndarray]] = []

    def spy(scene: Scene, poses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        seen.append((scene, poses))
        return render(scene, poses, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "render", spy)
        video = simulate_video(family, 21, 1, size=96, fps=8)
    scene, poses = seen[0]
    for number in range(len(scene.things)):
        bare = replace(scene, pendulum_anchors=())
        away = poses.copy()
        away[:, number, :2] = 100.0
        difference = np.abs(
            render(bare, poses, 96)[0].astype(float) - render(bare, away, 96)[0]
        ).sum(axis=3)
        weight = np.minimum(difference, 60)
        x, y = (np.arange(96) + 0.5) * VIEW_METERS / 96, (95.5 - np.arange(96)) * VIEW_METERS / 96
        total = weight.sum(axis=(1, 2))
        clear = video.states[:, number, 7] > 0.98
        cx = (weight.sum(axis=1) @ x)[clear] / total[clear]
        cy = (weight.sum(axis=2) @ y)[clear] / total[clear]
        assert clear.any()
        away_by = np.hypot(cx - video.states[clear, number, 0], cy - video.states[clear, number, 1])
        assert np.median(away_by) < 0.5 * VIEW_METERS / 96


def test_things_stand_out_from_what_is_behind_them() -> None:
    """Every thing in the open differs clearly from the empty scene, in each family."""
    for number, family in enumerate(SCENE_BUILDERS):
        video = simulate_video(family, 22, number, size=64, distractors=0)
        background = np.median(video.frames, axis=0)
        for thing in range(video.states.shape[1]):
            if video.meta["objects"][thing]["role"] == "plank":
                continue
            moved = np.linalg.norm(
                video.states[:, thing, :2] - np.median(video.states[:, thing, :2], axis=0), axis=1
            )
            where = np.flatnonzero((moved > 2) & (video.states[:, thing, 7] > 0.95))
            for frame in where[:3]:
                x, y = video.states[frame, thing, :2] * 64 / VIEW_METERS
                patch = np.s_[
                    max(0, int(64 - y) - 2) : int(64 - y) + 3, max(0, int(x) - 2) : int(x) + 3
                ]
                contrast = np.abs(video.frames[frame][patch] - background[patch]).sum(axis=2)
                assert contrast.max() > 60


def test_a_turning_thing_looks_different() -> None:
    for marking in ("half", "stripe", "dot"):
        ball = RigidBody("ball", 1.0, 1.0, (0, 0, 0), RED, WHITE, marking=marking)
        still, turned = _draw(ball, (5, 5, 0.0), 64)[0], _draw(ball, (5, 5, 1.0), 64)[0]
        assert (np.abs(still.astype(int) - turned).max(axis=2) > 100).sum() > 5
