"""The tiers beside the quadruplets: fair to every detector of change."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.physics.suite.arrow_of_time import ARROW_OF_TIME_KINDS, make_arrow_of_time_pair
from orchestrator.physics.suite.baselines import video_baseline_scores
from orchestrator.physics.suite.sanity import (
    IMPOSSIBLE_EVENTS,
    POSSIBLE_EVENTS,
    SanityVideos,
    make_sanity_videos,
)

COUNT = 16


@pytest.fixture(scope="module", params=["test", "ood"])
def sets(request: pytest.FixtureRequest) -> list[SanityVideos]:
    return [
        make_sanity_videos(request.param, number, size=32, fps=8.0, frames=24)
        for number in range(COUNT)
    ]


def change(film: np.ndarray) -> np.ndarray:
    """Mean change from frame to frame, [T - 1]."""
    return np.abs(np.diff(film.astype(np.float32), axis=0)).mean((1, 2, 3))


DETECTORS = {
    "mean change": lambda film: change(film).mean(),
    "largest change": lambda film: change(film).max(),
    "jump": lambda film: change(film).max() - np.median(change(film)),
    "start or stop": lambda film: np.abs(np.diff(change(film))).max(),
}


@pytest.mark.parametrize("detector", DETECTORS)
def test_no_detector_of_change_tells_broken_from_legal(
    sets: list[SanityVideos], detector: str
) -> None:
    found = {name: [] for name in IMPOSSIBLE_EVENTS}
    for one in sets:
        legal = np.array([DETECTORS[detector](film) for film in one.possible.values()])
        for name, film in one.impossible.items():
            found[name].append(float((DETECTORS[detector](film) > legal).mean()))
    assert set(one.possible) == set(POSSIBLE_EVENTS)
    assert all(np.mean(shares) <= 0.6 for shares in found.values()), found


def test_broken_videos_break_once_and_in_full_view(sets: list[SanityVideos]) -> None:
    for one in sets:
        gone, moved, painted = (one.impossible[name] for name in IMPOSSIBLE_EVENTS)
        t = one.event_frame
        assert (gone[:t] == moved[:t]).all()
        assert (gone[:t] == painted[:t]).all()
        assert (gone[t:] == gone[t]).all()  # nothing is left
        for film in (moved, painted):
            there = np.abs(film.astype(int) - gone[-1]).sum((1, 2, 3))
            # As much of the thing is seen in every frame: it is never hidden or cut off.
            for part in (there[:t], there[t:]):
                assert part.min() > 0.7 * part.max()


def test_the_same_arguments_give_the_same_videos_and_others_others() -> None:
    first, again = (make_sanity_videos("test", 3, size=32, fps=8.0, frames=24) for _ in range(2))
    other = make_sanity_videos("test", 3, size=32, fps=8.0, frames=24, seed=1)
    for name in POSSIBLE_EVENTS:
        np.testing.assert_array_equal(first.possible[name], again.possible[name])
        assert (first.possible[name] != other.possible[name]).any()


@pytest.mark.parametrize("split", ["test", "ood"])
@pytest.mark.parametrize("kind", ARROW_OF_TIME_KINDS)
def test_both_directions_ask_for_the_same_frames(kind: str, split: str) -> None:
    better: dict[str, list[bool]] = {"copy": [], "difference": []}
    for number in range(4):
        pair = make_arrow_of_time_pair(
            kind, split, number, size=32, fps=8.0, frames=16, context_frames=8, seed=0
        )
        np.testing.assert_array_equal(pair.forward[8:], pair.backward[8:][::-1])
        assert (pair.forward[:8] != pair.backward[:8]).any()
        ahead, back = (video_baseline_scores(film, 8) for film in (pair.forward, pair.backward))
        for rule, wins in better.items():
            wins.append(ahead[rule] < back[rule])
    assert better == {"copy": [False, True] * 2, "difference": [False, True] * 2}


@pytest.mark.parametrize(("fps", "frames", "seen"), [(8, 8, 6), (8, 16, 15), (30, 16, 8)])
def test_other_clips_have_an_arrow_too(fps: float, frames: int, seen: int) -> None:
    for kind in ARROW_OF_TIME_KINDS:
        pair = make_arrow_of_time_pair(
            kind, "test", 1, size=16, fps=fps, frames=frames, context_frames=seen, seed=0
        )
        assert pair.forward.shape == pair.backward.shape == (frames, 16, 16, 3)
