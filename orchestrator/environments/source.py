"""`world://` as a source of clips: episodes that a collector plays, with what it saw and did."""

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

EPISODES_PER_UNIT = 16  # episodes that are played, and committed, as a whole


class EnvironmentSource:
    """Episodes in a world, each a pure function of the URI's options and its index."""

    def __init__(self, uri: str) -> None:
        """Read the URI.

        Raises:
            RequestError: see `uri.parse_environment_uri`.
        """
        self.uri = uri
        self.options = parse_environment_uri(uri)

    def units(self) -> list[WorkUnit]:
        """Runs of 16 indices. The number of episodes is no part of a unit's identity."""
        given = self.options
        identity = f"{given.play} version {environment_class(given.environment).version}"
        return [
            WorkUnit(
                id=f"world-{_slug(given.environment)}-{first:08d}",
                inputs=tuple(
                    map(str, range(first, min(first + EPISODES_PER_UNIT, given.episodes)))
                ),
                identity=identity,
            )
            for first in range(0, given.episodes, EPISODES_PER_UNIT)
        ]

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """Play and encode the episodes of a unit.

        Beside each: `states.npy` float32 [F, S] (none where S is 0), `actions.npy` float32 [F, A]
        (row f leads from frame f to f + 1; the last row is 0), and under "world" in the JSON what
        they are.

        A picture larger than `encode.short_side` is drawn smaller, and a longer episode than
        `encode.segment` is cut into even segments, as any other video would be. An episode that
        the world ends at once is rejected: one frame is no video.
        """
        given = self.options
        world = build_environment(given.environment, min(given.size, encode.short_side // 2 * 2))
        for index in map(int, unit.inputs):
            rng = generator(given.seed, index, "worlds")
            episode = collect_episode(world, build_collector(given.environment), given.steps, rng)
            if len(episode.frames) < 2:
                yield Rejected(f"{given.play}#{index}", "the episode ended in its first frame")
            else:
                yield from self._segments(world, episode, index, encode)

    def _segments(
        self, world: Environment, episode: Episode, index: int, encode: TranscodeConfig
    ) -> Iterator[RawClip]:
        key = f"{_slug(self.options.environment)}-{self.options.seed}-{index:08d}"
        longest = max(2, math.floor(encode.segment * world.control_rate + 1e-6))
        # A segment of one frame would be no video: of an odd rest the segments are even shares.
        parts = min(math.ceil(len(episode.frames) / longest), len(episode.frames) // 2)
        start = 0
        for number, frames in enumerate(np.array_split(episode.frames, parts)):
            rows = slice(start, start + len(frames))
            actions = episode.actions[rows].copy()
            actions[-1] = 0  # it leads out of the clip
            extras = {
                "actions.npy": npy_bytes(actions),
                "json": json.dumps({"world": self._meta(world, index, start)}).encode(),
            }
            if episode.states.shape[1]:
                extras["states.npy"] = npy_bytes(episode.states[rows])
            yield RawClip(
                key=key if parts == 1 else f"{key}-{number:03d}",
                payload=encode_h264(
                    frames, world.control_rate, encode.gop, encode.crf, encode.chroma
                ),
                frames=len(frames),
                fps=world.control_rate,
                width=world.size,
                height=world.size,
                duration_s=len(frames) / world.control_rate,
                source=f"{self.options.play}#{index}",
                extras=extras,
            )
            start += len(frames)

    def _meta(self, world: Environment, index: int, start: int) -> dict[str, Any]:
        return {
            "name": self.options.environment,
            "version": world.version,
            "seed": self.options.seed,
            "index": index,
            "start": start,
            "rate": world.control_rate,
            "states": list(world.state_names),
        }


def _slug(name: str) -> str:
    """A name that may be part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def npy_bytes(array: Floats) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
