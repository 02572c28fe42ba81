"""`world://` as a data source: videos of collected episodes, with their states and actions."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from orchestrator.data.codec.encode import encode_h264
from orchestrator.data.sources.base import RawClip, Rejected, WorkUnit
from orchestrator.environments.base import Environment, Episode, Floats, collect_episode
from orchestrator.environments.registry import build_collector, build_environment, environment_class
from orchestrator.environments.uri import parse_environment_uri
from orchestrator.job import TranscodeConfig
from orchestrator.randomness import generator

EPISODES_PER_UNIT = 16  # part of the identity of packed datasets: do not change


class EnvironmentSource:
    """Episodes of an environment, each a pure function of the URI's options and its index."""

    def __init__(self, uri: str) -> None:
        """Parse the URI.

        Raises:
            RequestError: see `uri.parse_environment_uri`.
        """
        self.uri = uri
        self.options = parse_environment_uri(uri)

    def units(self) -> list[WorkUnit]:
        """Units of 16 episodes. The number of episodes is not part of a unit's identity."""
        options = self.options
        version = environment_class(options.environment).version
        return [
            WorkUnit(
                id=f"world-{_slug(options.environment)}-{first:08d}",
                inputs=tuple(
                    map(str, range(first, min(first + EPISODES_PER_UNIT, options.episodes)))
                ),
                identity=f"{options.canonical_uri} version {version}",
            )
            for first in range(0, options.episodes, EPISODES_PER_UNIT)
        ]

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """Collect and encode the episodes of a unit.

        Each clip has `states.npy`, float32 [F, S] (absent if S is 0), `actions.npy`, float32 [F, A]
        (row f leads from frame f to f + 1; the last row is 0), and a description of both under
        "world" in its JSON.

        Frames larger than `encode.short_side` are rendered at that size, and episodes longer than
        `encode.segment` are split evenly, as other videos are. An episode of one frame is rejected.
        """
        options = self.options
        size = min(options.size, encode.short_side // 2 * 2)
        environment = build_environment(options.environment, size)
        for index in map(int, unit.inputs):
            rng = generator(options.seed, index, "worlds")
            collector = build_collector(options.environment)
            episode = collect_episode(environment, collector, options.steps, rng)
            if len(episode.frames) < 2:
                source = f"{options.canonical_uri}#{index}"
                yield Rejected(source, "the episode ended in its first frame")
            else:
                yield from self._segments(environment, episode, index, encode)

    def _segments(
        self, environment: Environment, episode: Episode, index: int, encode: TranscodeConfig
    ) -> Iterator[RawClip]:
        rate = environment.control_rate
        key = f"{_slug(self.options.environment)}-{self.options.seed}-{index:08d}"
        max_frames = max(2, math.floor(encode.segment * rate + 1e-6))
        # Even parts of at least two frames: a last segment of one frame could not be encoded.
        parts = min(math.ceil(len(episode.frames) / max_frames), len(episode.frames) // 2)
        start = 0
        for number, frames in enumerate(np.array_split(episode.frames, parts)):
            rows = slice(start, start + len(frames))
            actions = episode.actions[rows].copy()
            actions[-1] = 0  # this action leads out of the clip
            extras = {
                "actions.npy": npy_bytes(actions),
                "json": json.dumps({"world": self._metadata(environment, index, start)}).encode(),
            }
            if episode.states.shape[1]:
                extras["states.npy"] = npy_bytes(episode.states[rows])
            yield RawClip(
                key=key if parts == 1 else f"{key}-{number:03d}",
                payload=encode_h264(frames, rate, encode.gop, encode.crf, encode.chroma),
                frames=len(frames),
                fps=rate,
                width=environment.size,
                height=environment.size,
                duration_s=len(frames) / rate,
                source=f"{self.options.canonical_uri}#{index}",
                extras=extras,
            )
            start += len(frames)

    def _metadata(self, environment: Environment, index: int, start: int) -> dict[str, Any]:
        return {
            "name": self.options.environment,
            "version": environment.version,
            "seed": self.options.seed,
            "index": index,
            "start": start,
            "rate": environment.control_rate,
            "states": list(environment.state_names),
        }


def _slug(name: str) -> str:
    """The name as a part of a file name: only letters, digits, _ and -."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def npy_bytes(array: Floats) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
