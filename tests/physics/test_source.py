"""`physics://`: what a URI may say, and that its videos are the same wherever they are made."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter

import av
import numpy as np
import pytest

from orchestrator.data.sources.base import RawClip, open_source
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig
from orchestrator.physics.scenes import SCENE_BUILDERS
from orchestrator.physics.simulated_video import STATE_COLUMNS, simulate_video
from orchestrator.physics.source import PhysicsSource
from orchestrator.physics.suite.quads import SCENARIOS, make_quad
from orchestrator.physics.uri import parse_physics_uri

SMALL = "physics://mixed?clips=9&size=32&fps=8&seconds=2"


def _clips(uri: str, encode: TranscodeConfig | None = None) -> list[RawClip]:
    source = PhysicsSource(uri)
    made = [
        clip for unit in source.units() for clip in source.clips(unit, encode or TranscodeConfig())
    ]
    assert all(isinstance(clip, RawClip) for clip in made)
    return made  # type: ignore[return-value]


def _meta(clip: RawClip) -> dict:
    return json.loads(clip.extras["json"])["physics"]


def _decode(payload: bytes) -> np.ndarray:
    with av.open(io.BytesIO(payload)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.integration
def test_the_same_uri_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from orchestrator.job import TranscodeConfig;"
        "from orchestrator.physics.source import PhysicsSource;"
        f"s = PhysicsSource('{SMALL}'); d = hashlib.sha256();"
        "[d.update(c.payload + c.extras['states.npy'] + c.extras['json'])"
        " for u in reversed(s.units()) for c in s.clips(u, TranscodeConfig())];"
        " print(d.hexdigest())"
    )
    here = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    import hashlib

    digest = hashlib.sha256()
    for clip in _clips(SMALL):
        digest.update(clip.payload + clip.extras["states.npy"] + clip.extras["json"])
    assert here == digest.hexdigest()


def test_seed_and_index_change_the_video() -> None:
    videos = [
        simulate_video("drop", seed, index, size=32, fps=4, seconds=1).frames
        for seed, index in [(0, 0), (0, 1), (1, 0)]
    ]
    assert not np.array_equal(videos[0], videos[1])
    assert not np.array_equal(videos[0], videos[2])


def test_a_moving_background_is_another_picture_of_the_same_motion() -> None:
    still, moving = (
        simulate_video("drop", 3, 5, size=64, fps=8, seconds=2, distractors=0, background=kind)
        for kind in ("still", "moving")
    )
    assert np.array_equal(still.states, moving.states)
    # The corner above everything: it stands still in one and changes with time in the other.
    at = np.s_[:, 8:24, 20:44]
    before = still.frames[at].astype(int), moving.frames[at].astype(int)
    steps = [np.abs(np.diff(corner, axis=0)).mean() for corner in before]
    assert steps[1] > 1
    assert steps[1] > 5 * steps[0]
    # Floor and walls are painted over it, as they are over a still one.
    assert np.array_equal(still.frames[:, -2:], moving.frames[:, -2:])
    again = simulate_video(
        "drop", 3, 5, size=64, fps=8, seconds=2, distractors=0, background="moving"
    )
    assert np.array_equal(again.frames, moving.frames)


def test_the_background_is_part_of_a_videos_identity_only_where_it_moves() -> None:
    plain = "physics://drop?seed=0&size=128&fps=24&seconds=5&distractors=2"
    assert parse_physics_uri("physics://drop").scenes == plain
    assert parse_physics_uri("physics://drop?background=still").scenes == plain
    assert (
        parse_physics_uri("physics://drop?background=moving").scenes == f"{plain}&background=moving"
    )
    with pytest.raises(RequestError, match="did you mean 'moving'"):
        parse_physics_uri("physics://drop?background=movin")


def test_mixed_holds_every_family_in_equal_parts() -> None:
    clips = _clips("physics://mixed?clips=14&size=16&fps=4&seconds=1")
    assert Counter(_meta(clip)["family"] for clip in clips) == dict.fromkeys(SCENE_BUILDERS, 2)
    assert len({clip.key for clip in clips}) == 14


def test_possible_shows_every_situation_of_the_suites_in_equal_parts() -> None:
    clips = _clips(f"physics://possible?clips={2 * len(SCENARIOS)}&size=16&fps=8&seconds=3")
    families = Counter(_meta(clip)["family"] for clip in clips)
    assert families == {f"suite-{scenario}": 2 for scenario in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_situation_has_either_context_and_none_of_the_suites_draws(scenario: str) -> None:
    shown = [
        simulate_video(f"suite-{scenario}", 0, index, size=32, fps=8, seconds=3, distractors=0)
        for index in range(12)
    ]
    assert len({one.frames.tobytes() for one in shown}) == 12
    asked = {
        cell.tobytes()
        for split in ("validation", "test")
        for number in range(3)
        for cell in make_quad(scenario, split, number, size=32).videos.reshape(4, 24, 32, 32, 3)
    }
    assert not asked & {one.frames.tobytes() for one in shown}


def test_a_shelf_ends_in_half_of_the_situations_only() -> None:
    falls = [
        simulate_video("suite-support", 0, index, size=32, fps=8, seconds=3, distractors=0).states
        for index in range(40)
    ]
    lower = sum(float(s[0, 0, 1] - s[:, 0, 1].min()) > 1.0 for s in falls)
    assert 10 <= lower <= 30


def test_a_clip_is_what_its_description_says() -> None:
    for clip in _clips("physics://mixed?clips=7&size=48&fps=8&seconds=3"):
        frames = _decode(clip.payload)
        assert frames.shape == (clip.frames, clip.height, clip.width, 3) == (24, 48, 48, 3)
        assert clip.fps == 8
        assert clip.duration_s == pytest.approx(3)
        states = np.load(io.BytesIO(clip.extras["states.npy"]), allow_pickle=False)
        meta = _meta(clip)
        assert states.shape == (24, len(meta["objects"]), len(STATE_COLUMNS))
        assert states.dtype == np.float32
        assert meta["columns"] == list(STATE_COLUMNS)
        drawn = simulate_video(meta["family"], 0, meta["index"], size=48, fps=8, seconds=3).frames
        error = np.mean((frames.astype(float) - drawn) ** 2)
        assert 10 * np.log10(255**2 / error) > 28


def test_units_are_fixed_lists_and_more_clips_leave_them_as_they_are() -> None:
    few, many = (PhysicsSource(f"physics://drop?clips={n}").units() for n in (128, 1000))
    assert many[: len(few)] == few
    assert [int(i) for unit in many for i in unit.inputs] == list(range(1000))
    assert len({unit.id for unit in many}) == len(many)
    other = PhysicsSource("physics://drop?clips=128&seed=1").units()
    assert other[0].identity != few[0].identity


def test_the_packing_options_hold_for_simulated_video_too() -> None:
    uri = "physics://drop?clips=1&size=64&fps=8&seconds=4"
    clips = _clips(uri, TranscodeConfig(short_side=48, segment=1.5, gop=4))
    assert [clip.frames for clip in clips] == [11, 11, 10]
    assert {clip.width for clip in clips} == {48}
    assert [_meta(clip)["start"] for clip in clips] == [0, 11 / 8, 22 / 8]
    whole = simulate_video("drop", 0, 0, size=48, fps=8, seconds=4).states
    parts = [np.load(io.BytesIO(clip.extras["states.npy"])) for clip in clips]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_data_room_finds_it() -> None:
    assert isinstance(open_source(SMALL), PhysicsSource)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("physics://drip?clips=2", "did you mean 'drop'?"),
        ("physics://mixed?clip=2", "did you mean 'clips'?"),
        ("physics://mixed?clips=many", "whole number from 1"),
        ("physics://mixed?clips=0", "whole number from 1"),
        ("physics://mixed?clips=", "whole number from 1"),
        ("physics://mixed?fps=nan", "number from 1"),
        ("physics://mixed?size=63", "size=64"),
        ("physics://mixed?size=512&fps=120&seconds=60", "lower size"),
        ("physics://mixed?seed=1&seed=2", "given it once|twice"),
        ("physics://mixed/more", "physics://FAMILY"),
    ],
)
def test_a_wrong_uri_is_refused_with_a_hint(uri: str, says: str) -> None:
    with pytest.raises(RequestError, match=says.replace("?", r"\?")):
        parse_physics_uri(uri)


def test_a_bare_uri_is_the_default_mixture() -> None:
    assert parse_physics_uri("physics://") == parse_physics_uri(
        "physics://mixed?clips=2000&seed=0&size=128&fps=24&seconds=5"
    )


@pytest.mark.parametrize("uri", ["physics://[x", "physics://[::1"])
def test_brackets_that_are_no_address_are_refused(uri: str) -> None:
    with pytest.raises(RequestError, match="not a URI"):
        parse_physics_uri(uri)
