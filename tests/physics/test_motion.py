"""Only possible physics: laws that a wrong simulator would break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.physics.scene import GRAVITY, VIEW_METERS, Background, RigidBody, Scene
from orchestrator.physics.scenes import SCENE_BUILDERS
from orchestrator.physics.scenes.common import WALL_THICKNESS, box_vertices, regular_polygon
from orchestrator.physics.simulated_video import simulate_video
from orchestrator.physics.simulation import simulate_motion

GREY = (0.5, 0.5, 0.5)
EMPTY = Background("plain", (GREY, GREY))
SEEDS = range(6)


def _scene(thing: RigidBody) -> Scene:
    return Scene("drop", (thing,), (), EMPTY, outline_brightness=0.5)


def test_free_fall_follows_the_parabola() -> None:
    thrown = RigidBody(
        "ball", 0.5, 1.0, (2.0, 8.0, 0.0), GREY, GREY, velocity=(3.0, 2.0, 1.5), restitution=0.5
    )
    seen = simulate_motion(_scene(thrown), 25, 24.0)
    time = np.arange(25) / 24
    np.testing.assert_allclose(seen.poses[:, 0, 0], 2 + 3 * time, atol=1e-6)
    # Half a step of 1/480 s is what an explicit integrator may lag behind: 1 cm after a second.
    np.testing.assert_allclose(
        seen.poses[:, 0, 1], 8 + 2 * time - GRAVITY / 2 * time**2, atol=0.012
    )
    np.testing.assert_allclose(seen.poses[:, 0, 4], 2 - GRAVITY * time, atol=1e-6)
    np.testing.assert_allclose(seen.poses[:, 0, 2], 1.5 * time, atol=1e-6)


@pytest.mark.parametrize(
    "corners", [box_vertices(1.2, 0.6), regular_polygon(3, 0.7), regular_polygon(6, 0.7)]
)
def test_area_and_moment_agree_with_a_sum_over_points(corners: np.ndarray) -> None:
    thing = RigidBody("box", 1.0, 2.5, (0, 0, 0), GREY, GREY, corners=corners)
    grid = np.linspace(-1, 1, 801)
    x, y = np.meshgrid(grid, grid)
    ahead = np.roll(corners, -1, axis=0) - corners
    inside = np.ones_like(x, bool)
    for (cx, cy), (ax, ay) in zip(corners, ahead, strict=True):
        inside &= ax * (y - cy) - ay * (x - cx) >= 0
    assert thing.area == pytest.approx(inside.sum() * (grid[1] - grid[0]) ** 2, rel=0.01)
    assert thing.moment_of_inertia == pytest.approx(2.5 * (x**2 + y**2)[inside].mean(), rel=0.01)


@pytest.mark.parametrize("family", SCENE_BUILDERS)
def test_energy_never_grows(family: str) -> None:
    for index in SEEDS:
        video = simulate_video(family, 11, index, size=16, distractors=0)
        energy = _energy(video.states, video.meta)
        lowest = np.minimum.accumulate(energy)
        # The scale is what can be lost at all, so from the first to the last state.
        scale = max(energy[0] - energy[-1], 0.05 * energy[0])
        assert (energy - lowest).max() < 0.02 * scale, (family, index)


def _energy(states: np.ndarray, meta: dict) -> np.ndarray:
    """Kinetic + potential energy over time, with moments from the recorded shapes."""
    total = np.zeros(len(states))
    for number, one in enumerate(meta["objects"]):
        _, y, _, vx, vy, omega, size, _ = states[:, number].astype(float).T
        corners = one["corners"]
        moment = 0.5 * one["mass"] * size[0] ** 2
        if corners is not None:
            moment = RigidBody(
                "", size[0], one["mass"], (0, 0, 0), GREY, GREY, corners=np.array(corners)
            ).moment_of_inertia
        total += 0.5 * one["mass"] * (vx**2 + vy**2) + 0.5 * moment * omega**2
        total += one["mass"] * meta["gravity"] * y
    return total


@pytest.mark.parametrize("family", SCENE_BUILDERS)
def test_nothing_passes_a_wall_or_the_floor(family: str) -> None:
    for index in SEEDS:
        video = simulate_video(family, 12, index, size=16, distractors=0)
        for number, one in enumerate(video.meta["objects"]):
            x, y, angle = video.states[:, number, :3].T
            corners = np.zeros((1, 2)) if one["corners"] is None else np.array(one["corners"])
            reach = one["size"] if one["corners"] is None else 0.0
            px = np.cos(angle)[:, None] * corners[:, 0] - np.sin(angle)[:, None] * corners[:, 1]
            py = np.sin(angle)[:, None] * corners[:, 0] + np.cos(angle)[:, None] * corners[:, 1]
            px, py = px + x[:, None], py + y[:, None]
            slack = 0.06  # an impact at full speed may sink in by a step's way: under a pixel
            assert px.min() - reach > WALL_THICKNESS - slack
            assert px.max() + reach < VIEW_METERS - WALL_THICKNESS + slack
            for left, bottom, right, top in _blocks(video.meta):
                deep = np.min([px - left, right - px, py - bottom, top - py], axis=0)
                aside = np.maximum(0, np.maximum(left - px, px - right))
                above = np.maximum(0, np.maximum(bottom - py, py - top))
                assert deep.max() < slack
                assert np.hypot(aside, above).min() > reach - slack


def _blocks(meta: dict) -> list[list[float]]:
    """Upright rectangles among the solids, as left, bottom, right, top."""
    found = []
    for solid in meta["solids"]:
        corners = np.array(solid["corners"])
        if len(corners) == 4:
            found.append([*corners.min(axis=0), *corners.max(axis=0)])
    return found


@pytest.mark.parametrize("family", SCENE_BUILDERS)
def test_what_rests_does_not_tremble(family: str) -> None:
    pixel = VIEW_METERS / 128
    for index in SEEDS:
        states = simulate_video(family, 13, index, size=16, distractors=0).states
        speed = np.linalg.norm(states[:, :, 3:5], axis=2) + np.abs(states[:, :, 5])
        rests = speed < 0.05
        still = rests[:-1] & rests[1:]
        moved = np.linalg.norm(np.diff(states[:, :, :2], axis=0), axis=2)
        assert not still.any() or moved[still].max() < 0.2 * pixel


def test_a_screen_changes_nothing_about_what_passes_behind_it() -> None:
    rng = np.random.default_rng(3)
    scene = SCENE_BUILDERS["occlusion"](rng)
    with_screen, without = (
        simulate_motion(scene, 48, 24.0),
        simulate_motion(replace(scene, screens=()), 48, 24.0),
    )
    np.testing.assert_array_equal(with_screen.poses, without.poses)


def test_hidden_things_come_out_again() -> None:
    for index in range(8):
        visible = simulate_video("occlusion", 14, index, size=64, distractors=0).states[:, 0, 7]
        hidden = np.flatnonzero(visible < 0.02)
        assert len(hidden)
        assert (visible[: hidden[0]] > 0.9).any()
        assert (visible[hidden[0] :] > 0.9).any()


def test_a_mirrored_scene_gives_the_mirrored_motion() -> None:
    scene = SCENE_BUILDERS["ramp"](np.random.default_rng(5))
    seen, turned = (
        simulate_motion(scene, 24, 24.0).poses,
        simulate_motion(scene.mirrored(), 24, 24.0).poses,
    )
    flipped = turned * np.array([-1, 1, -1, -1, 1, -1]) + np.array([VIEW_METERS, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(seen, flipped, atol=1e-3)


def test_launch_is_by_contact_and_passes_momentum_on() -> None:
    for index in range(4):
        video = simulate_video("launch", 15, index, size=16, distractors=0)
        met = next(
            c["time"] for c in video.meta["contacts"] if {c["a"], c["b"]} == {"thing 0", "thing 1"}
        )
        frame = int(met * 24)
        assert np.abs(video.states[:frame, 1, 3]).max(initial=0) < 0.05
        assert np.abs(video.states[frame + 2, 1, 3]) > 0.5
        masses = np.array([one["mass"] for one in video.meta["objects"][:2]])
        before = (masses * video.states[frame, :2, 3]).sum()
        after = (masses * video.states[frame + 1, :2, 3]).sum()
        assert after == pytest.approx(before, rel=0.15)
