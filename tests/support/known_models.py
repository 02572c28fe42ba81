"""Models that are planted: each follows `Evaluable` and knows exactly what the test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.jepa.model_files import ClipShape, WorldModel, randomly_initialized_model
from orchestrator.physics.suite.arrow_of_time import ARROW_OF_TIME_KINDS, make_arrow_of_time_pair
from orchestrator.physics.suite.quads import Quad, make_quad
from orchestrator.physics.suite.sanity import make_sanity_videos
from tests.support.tiny import model_config, tiny_job

SIZE, FRAMES, FPS, TUBELET, SIDE = 32, 24, 8.0, 2, 4
CONTEXT = 4
"""Frames that every planted model sees; the whole video is its one window."""


class KnownModel:
    """What all of them have in common."""

    masks = 1
    clip = ClipShape(SIZE, FRAMES, FPS, TUBELET, (FRAMES // TUBELET, SIDE, SIDE))

    def compared(self, features: Tensor, video: Tensor) -> Tensor:
        return features

    def untaught(self, seed: int) -> WorldModel:
        return randomly_initialized_model(model_config(tiny_job(frames=FRAMES)), seed)

    def by_moment(self, values: Tensor) -> Tensor:
        """[B, t, dim] -> the same for each token, [B, t * area, dim]."""
        return values.repeat_interleave(self.clip.tokens_per_timestep, dim=1)


class FrameDifference(KnownModel):
    """A cheat: its features are how much each patch changes from one frame to the next."""

    def __init__(self, expects: str) -> None:
        self.expected_change = expects

    def encode(self, video: Tensor, seen: int | None = None) -> Tensor:
        frames = video[:, :seen].float().mean(-1)
        change = torch.diff(frames, dim=1, prepend=frames[:, :1]).abs()
        patches = change.unflatten(3, (SIDE, -1)).unflatten(2, (SIDE, -1)).mean((3, 5))
        return patches.unflatten(1, (-1, TUBELET)).movedim(2, -1).flatten(1, 3)

    def foresee(self, features: Tensor, mask: int = 0) -> Tensor:
        rest = self.clip.grid[0] - features.shape[1] // self.clip.tokens_per_timestep
        last = features[:, -self.clip.tokens_per_timestep :].repeat(1, rest, 1)
        return last if self.expected_change == "the same change" else torch.zeros_like(last)


class Oracle(KnownModel):
    """It knows the true states of every video, and what will be from how a video begins."""

    def __init__(self, quads: Iterable[Quad]) -> None:
        self.states: dict[bytes, Tensor] = {}
        self.future_of_context: dict[bytes, int] = {}
        self.futures: list[Tensor] = []
        for quad in quads:
            for row in (0, 1):
                for column in (0, 1):
                    self.states[quad.videos[row, column].tobytes()] = _tubelet_states(
                        quad, row, column
                    )
                self.future_of_context[quad.videos[row, row, :CONTEXT].tobytes()] = len(
                    self.futures
                )
                self.futures.append(_tubelet_states(quad, row, row))

    def encode(self, video: Tensor, seen: int | None = None) -> Tensor:
        if seen is None:
            return self.by_moment(torch.stack([self.states[_bytes(one)] for one in video]))
        number = [self.future_of_context[_bytes(one[:seen])] for one in video]
        features = torch.zeros(len(video), seen // TUBELET, self.futures[0].shape[1])
        features[:, :, 0] = torch.tensor(number)[:, None]
        return self.by_moment(features)

    def foresee(self, features: Tensor, mask: int = 0) -> Tensor:
        known = [self.futures[int(number)] for number in features[:, 0, 0]]
        return self.by_moment(torch.stack(known)[:, CONTEXT // TUBELET :])


def build_oracle(
    scenarios: Iterable[str], splits: dict[str, int], make: Callable[..., Quad]
) -> Oracle:
    """An oracle of some quads of each split."""
    return Oracle(
        make(scenario, split, number, size=SIZE, fps=FPS, frames=FRAMES, seed=0)
        for scenario in scenarios
        for split, count in splits.items()
        for number in range(count)
    )


def shuffled_quad(*args: object, **options: object) -> Quad:
    """A quad whose four videos have lost their places."""
    quad = make_quad(*args, **options)  # type: ignore[arg-type]
    order = np.random.default_rng(quad.index + 1000 * len(quad.scenario)).permutation(4)

    def moved(part: np.ndarray) -> np.ndarray:
        return part.reshape(4, *part.shape[2:])[order].reshape(part.shape)

    return Quad(
        quad.scenario,
        quad.split,
        quad.index,
        moved(quad.videos),
        quad.break_frame,
        moved(quad.states),
        moved(quad.visible),
        moved(quad.contacts),
    )


class SurprisedBy(KnownModel):
    """It wonders at the videos it was told of, and at no other."""

    def __init__(self, films: Iterable[np.ndarray]) -> None:
        self.videos = {film.tobytes() for film in films}

    def encode(self, video: Tensor, seen: int | None = None) -> Tensor:
        if seen is not None:
            return self.by_moment(torch.zeros(len(video), seen // TUBELET, 3))
        marks = [float(_bytes(one) in self.videos) for one in video]
        return self.by_moment(torch.tensor(marks)[:, None, None].expand(-1, FRAMES // TUBELET, 3))

    def foresee(self, features: Tensor, mask: int = 0) -> Tensor:
        rest = self.clip.grid[0] * self.clip.tokens_per_timestep - features.shape[1]
        return torch.zeros(len(features), rest, features.shape[2])


def tier_videos(split: str, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The videos of both tiers that should surprise, and those that should not."""
    odd, fine = [], []
    for number in range(count):
        films = make_sanity_videos(split, number, size=SIZE, fps=FPS, frames=FRAMES, seed=0)
        odd += films.impossible.values()
        fine += films.possible.values()
        for kind in ARROW_OF_TIME_KINDS:
            pair = make_arrow_of_time_pair(
                kind,
                split,
                number,
                size=SIZE,
                fps=FPS,
                frames=FRAMES,
                context_frames=CONTEXT,
                seed=0,
            )
            odd.append(pair.backward)
            fine.append(pair.forward)
    return odd, fine


def _tubelet_states(quad: Quad, row: int, column: int) -> Tensor:
    """States of a cell by tubelet, [t, 24]; what does not exist is far away."""
    states = np.nan_to_num(quad.states[row, column], nan=-100.0).reshape(FRAMES, -1)
    whole = np.zeros((FRAMES, 24), np.float32)
    whole[:, : states.shape[1]] = states
    return torch.from_numpy(whole).unflatten(0, (-1, TUBELET)).mean(1)


def _bytes(video: Tensor) -> bytes:
    return video.contiguous().numpy().tobytes()


FRAME_DIFFERENCE = FrameDifference("no change")
follows: Evaluable = FRAME_DIFFERENCE


def frame_difference() -> FrameDifference:
    """What `model: tests.support.known_models:frame_difference` names."""
    return FRAME_DIFFERENCE
