"""LeRobot v3 folders as a source: an episode's part of a video, its states and its actions.

Several episodes share a video and a table. An episode is cut out of both by its own times and its
index, and is refused where the two do not say the same.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby, pairwise
from typing import IO, Any
from urllib.parse import parse_qsl

import numpy as np
from av.error import FFmpegError

from orchestrator.data.codec.container import ffmpeg_reason, open_video
from orchestrator.data.codec.transcode import (
    EncodedSegment,
    FrameConverter,
    SegmentEncoder,
    scaled_size,
)
from orchestrator.data.codec.video_probe import VideoInfo, probe_video
from orchestrator.data.sources.base import CHANGED_WHILE_PACKING, RawClip, Rejected, WorkUnit
from orchestrator.data.sources.inputs import (
    check_not_lfs_pointer,
    convert_input_errors,
    file_identity,
    make_units,
    open_buffered,
)
from orchestrator.data.sources.lerobot.episodes import (
    Floats,
    LeRobotEpisode,
    read_episodes,
    read_states_and_actions,
    skipped_files,
)
from orchestrator.data.sources.lerobot.info import (
    ACTION_FEATURE,
    STATE_FEATURE,
    LeRobotInfo,
    read_info,
)
from orchestrator.errors import DataError, RequestError, suggest
from orchestrator.job import TranscodeConfig
from orchestrator.storage import Storage

SCHEME = "lerobot://"


def _split_uri(uri: str) -> tuple[str, str]:
    """Path and options; a folder's own path has none, whatever its name holds."""
    given = uri.removeprefix(SCHEME)
    path, mark, query = given.rpartition("?")
    return (path, query) if mark and given != uri and "/" not in query else (given, "")


class LeRobotSource:
    """Episodes of a folder that LeRobot wrote, seen by one camera.

    `lerobot://PATH?camera=KEY`, or the folder's own path where it has one camera. A clip is always
    encoded anew, since an episode begins where no key frame need be.
    """

    def __init__(self, uri: str, unit_size: int) -> None:
        """Read what the folder says of itself; `unit`: episodes per work unit.

        Raises:
            RequestError: see `lerobot_info.read_info`, or an unknown option.
        """
        path, query = _split_uri(uri)
        options = dict(parse_qsl(query, keep_blank_values=True))
        for name in options:
            if name != "camera":
                raise RequestError(
                    f"unknown option '{name}'", where=uri, hint=suggest(name, ["camera"])
                )
        self.unit_size, self.storage = unit_size, Storage(path)
        self._skipped_inputs: list[Rejected] = []
        self.info: LeRobotInfo = read_info(self.storage, options.get("camera"))
        # However it was named, the same folder and camera are the same dataset.
        self.uri = f"{SCHEME}{self.storage.root}?camera={self.info.camera}"

    def units(self) -> list[WorkUnit]:
        """Units of `unit` episodes each, in order.

        Raises:
            RequestError: see `lerobot_meta.read_episodes`.
        """
        states: dict[str, str] = {}
        inputs = []
        episodes = read_episodes(self.storage, self.info)
        self._skipped_inputs = skipped_files(self.storage, self.info, episodes)
        for episode in episodes:
            for path in (episode.video, episode.table):
                if path not in states:
                    states[path] = file_identity(self.storage, path)
            identity = f"{states[episode.video]} {states[episode.table]}"
            inputs.append((episode.to_json(), identity))
        return make_units(inputs, self.unit_size)

    def left_out(self) -> list[Rejected]:
        """Files that no episode names, and episodes that are missing."""
        return self._skipped_inputs

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_skipped_inputs": []}

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """The clips of every episode of a unit, `episode-000000-000` and so on.

        Beside each: `actions.npy` (the column `action`, row f leads from frame f to f + 1; the
        last row is 0) and `states.npy` (`observation.state`), float32, where the folder has them.
        """
        rows = zip(
            map(LeRobotEpisode.from_json, unit.inputs), unit.identity.split("\n"), strict=True
        )
        for video, group in groupby(rows, key=lambda row: row[0].video):
            episodes = list(group)
            try:
                file, facts = self._open_video(video)
            except DataError as error:
                yield from (
                    Rejected(self._episode_uri(episode), error.what) for episode, _ in episodes
                )
                continue
            with file:
                for episode, identity in episodes:
                    yield from self._clips_of_episode(episode, identity, file, facts, encode)

    def _open_video(self, video: str) -> tuple[IO[bytes], VideoInfo]:
        """A video, and what it holds.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            with convert_input_errors(self.storage):
                file = open_buffered(self.storage, video)
        except DataError as error:
            raise DataError(f"{video}: {error.what}") from None
        try:
            with convert_input_errors(self.storage):
                check_not_lfs_pointer(file)
                facts = probe_video(file)
                if facts.timeline.pts is None:
                    raise DataError("its timestamps are missing, repeated or out of order")
                return file, facts
        except DataError as error:
            file.close()
            raise DataError(f"{video}: {error.what}") from None

    def _episode_uri(self, episode: LeRobotEpisode) -> str:
        return f"{self.storage.root}#episode-{episode.index}"

    def _clips_of_episode(
        self,
        episode: LeRobotEpisode,
        identity: str,
        file: IO[bytes],
        facts: VideoInfo,
        encode: TranscodeConfig,
    ) -> Iterator[RawClip | Rejected]:
        """An episode's clips, or why it has none."""
        if identity != self._episode_identity(episode):
            yield Rejected(self._episode_uri(episode), CHANGED_WHILE_PACKING)
            return
        reason = ""
        try:
            with convert_input_errors(self.storage):
                columns = read_states_and_actions(self.storage, episode, self.info)
                check_episode_frames(episode, self.info, facts)
                yield from self._encode_segments(episode, columns, file, facts, encode)
        except DataError as error:
            reason = error.what
        if identity != self._episode_identity(episode):
            reason = CHANGED_WHILE_PACKING
        if reason:
            yield Rejected(self._episode_uri(episode), reason)

    def _episode_identity(self, episode: LeRobotEpisode) -> str:
        both = (file_identity(self.storage, path) for path in (episode.video, episode.table))
        return " ".join(both)

    def _encode_segments(
        self,
        episode: LeRobotEpisode,
        columns: dict[str, Floats],
        file: IO[bytes],
        facts: VideoInfo,
        encode: TranscodeConfig,
    ) -> Iterator[RawClip]:
        """All segments of an episode: none is given before the last frame was found in place."""
        longest = max(2, math.floor(encode.segment * self.info.fps + 1e-6))
        parts = min(math.ceil(episode.length / longest), episode.length // 2)
        bounds = [episode.length * part // parts for part in range(parts + 1)]
        pieces = list(encode_episode(file, facts, episode, self.info.fps, bounds, encode))
        for number, (piece, (first, last)) in enumerate(zip(pieces, pairwise(bounds), strict=True)):
            yield RawClip(
                key=f"episode-{episode.index:06d}-{number:03d}",
                payload=piece.payload,
                frames=piece.frames,
                fps=piece.fps,
                width=piece.width,
                height=piece.height,
                duration_s=piece.duration_s,
                source=self._episode_uri(episode),
                extras=self._sidecars(episode, columns, first, last),
            )

    def _sidecars(
        self, episode: LeRobotEpisode, columns: dict[str, Floats], first: int, last: int
    ) -> dict[str, bytes]:
        told = {
            "episode": episode.index,
            "start": first,
            "camera": self.info.camera,
            "tasks": episode.tasks,
            "names": self.info.names,
        }
        extras = {"json": json.dumps({"lerobot": told}).encode()}
        if STATE_FEATURE in columns:
            extras["states.npy"] = _to_npy_bytes(columns[STATE_FEATURE][first:last])
        if ACTION_FEATURE in columns:
            actions = columns[ACTION_FEATURE][first:last].copy()
            actions[-1] = 0  # it leads out of the clip
            extras["actions.npy"] = _to_npy_bytes(actions)
        return extras


def check_episode_frames(episode: LeRobotEpisode, info: LeRobotInfo, facts: VideoInfo) -> None:
    """Whether a video has a frame for every row of an episode.

    Raises:
        DataError: it has another rate, or more or fewer frames.
    """
    if episode.length < 2:
        raise DataError("one row is not a video" if episode.length else "no rows")
    if abs(float(facts.fps) / info.fps - 1) > 0.01:
        raise DataError(f"the video has {float(facts.fps):g} frames a second, not {info.fps:g}")
    half = 0.5 / info.fps
    inside = (facts.frame_times > episode.begin - half) & (facts.frame_times < episode.end - half)
    if int(inside.sum()) != episode.length:
        raise DataError(f"{int(inside.sum())} frames in the video, {episode.length} rows")


def encode_episode(
    file: IO[bytes],
    facts: VideoInfo,
    episode: LeRobotEpisode,
    fps: float,
    bounds: list[int],
    encode: TranscodeConfig,
) -> Iterator[EncodedSegment]:
    """The frames of an episode, encoded anew: a piece from each of `bounds` to the next.

    Raises:
        DataError: a frame is damaged, missing, or not at its row's time.
    """
    width, height = scaled_size(facts, encode.short_side)
    rate = Fraction(fps).limit_denominator(1001)
    shape = FrameConverter(facts, width, height, encode.chroma)
    file.seek(0)
    with open_video(file) as (container, stream):
        shown = _frames_by_row(container, stream, episode.begin, fps)
        for first, last in pairwise(bounds):
            encoder = SegmentEncoder(width, height, rate, encode)
            for row in range(first, last):
                found, picture = next(shown, (-1, None))
                if found != row:
                    raise DataError(f"the video has no frame for row {row}")
                encoder.add(shape.convert(picture), row - first)
            yield encoder.finish()


def _frames_by_row(
    container: Any, stream: Any, begin: float, fps: float
) -> Iterator[tuple[int, Any]]:
    """(row, picture) of every frame from `begin` on.

    Raises:
        DataError: the decoder complains.
    """
    base, origin = float(stream.time_base), stream.start_time or 0
    container.seek(max(0, int((begin - 0.5 / fps) / base)) + origin, stream=stream)
    try:
        for packet in container.demux(stream):
            for frame in packet.decode():
                row = round(((frame.pts - origin) * base - begin) * fps)
                if row >= 0 and (packet.is_corrupt or frame.is_corrupt):
                    raise DataError("damaged frames (the decoder reports errors)")
                if row >= 0:
                    yield row, frame
    except FFmpegError as error:
        raise DataError(f"damaged frames: {ffmpeg_reason(error)}") from None


def _to_npy_bytes(array: Floats) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
