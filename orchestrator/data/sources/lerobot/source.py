"""Source: the episodes of a LeRobot v3 folder, with video, states and actions.

Several episodes share a video and a table. The frames of an episode are found by its times, its
rows by its index; it is rejected if the two do not match.
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
from orchestrator.data.sources.raw_clips import clip_of_segment
from orchestrator.errors import DataError, RequestError, suggest
from orchestrator.job import TranscodeConfig
from orchestrator.storage import Storage

SCHEME = "lerobot://"


def _split_uri(uri: str) -> tuple[str, str]:
    """Split a URI into path and options; a path without scheme has no options."""
    rest = uri.removeprefix(SCHEME)
    path, separator, query = rest.rpartition("?")
    return (path, query) if separator and rest != uri and "/" not in query else (rest, "")


class LeRobotSource:
    """The episodes of a LeRobot folder, as recorded by one camera.

    The URI is `lerobot://PATH?camera=KEY`, or the folder's path if it has one camera. Clips are
    always re-encoded, since an episode need not begin at a key frame.
    """

    def __init__(self, uri: str, unit_size: int) -> None:
        """Read the folder's description.

        Args:
            unit_size: episodes per work unit.

        Raises:
            RequestError: see `info.read_info`, or an unknown option.
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
        # The same folder and camera are the same dataset, however the URI is written.
        self.uri = f"{SCHEME}{self.storage.root}?camera={self.info.camera}"

    def units(self) -> list[WorkUnit]:
        """Work units of `unit_size` episodes, in order.

        Raises:
            RequestError: see `episodes.read_episodes`.
        """
        identities: dict[str, str] = {}
        inputs = []
        episodes = read_episodes(self.storage, self.info)
        self._skipped_inputs = skipped_files(self.storage, self.info, episodes)
        for episode in episodes:
            for path in (episode.video, episode.table):
                if path not in identities:
                    identities[path] = file_identity(self.storage, path)
            identity = f"{identities[episode.video]} {identities[episode.table]}"
            inputs.append((episode.to_json(), identity))
        return make_units(inputs, self.unit_size)

    def left_out(self) -> list[Rejected]:
        """Files that no episode uses, and episodes that are missing."""
        return self._skipped_inputs

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_skipped_inputs": []}

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """The clips of every episode of a unit, with keys `episode-000000-000` and so on.

        Each has the sidecar files `actions.npy` (column `action`: row f leads from frame f to
        f + 1, the last row is 0) and `states.npy` (`observation.state`), float32, if the folder has
        these columns.
        """
        rows = zip(
            map(LeRobotEpisode.from_json, unit.inputs), unit.identity.split("\n"), strict=True
        )
        for video, group in groupby(rows, key=lambda row: row[0].video):
            episodes = list(group)
            try:
                file, video_info = self._open_video(video)
            except DataError as error:
                yield from (
                    Rejected(self._episode_uri(episode), error.what) for episode, _ in episodes
                )
                continue
            with file:
                for episode, identity in episodes:
                    yield from self._clips_of_episode(episode, identity, file, video_info, encode)

    def _open_video(self, video: str) -> tuple[IO[bytes], VideoInfo]:
        """Open and probe a video.

        Raises:
            DataError: it is missing or damaged, or has faulty timestamps.
        """
        try:
            with convert_input_errors(self.storage):
                file = open_buffered(self.storage, video)
        except DataError as error:
            raise DataError(f"{video}: {error.what}") from None
        try:
            with convert_input_errors(self.storage):
                check_not_lfs_pointer(file)
                video_info = probe_video(file)
                if video_info.timeline.pts is None:
                    raise DataError("its timestamps are missing, repeated or out of order")
                return file, video_info
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
        video_info: VideoInfo,
        encode: TranscodeConfig,
    ) -> Iterator[RawClip | Rejected]:
        """The clips of an episode, or the reason why it has none."""
        if identity != self._episode_identity(episode):
            yield Rejected(self._episode_uri(episode), CHANGED_WHILE_PACKING)
            return
        reason = ""
        try:
            with convert_input_errors(self.storage):
                columns = read_states_and_actions(self.storage, episode, self.info)
                check_episode_frames(episode, self.info, video_info)
                yield from self._encode_segments(episode, columns, file, video_info, encode)
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
        video_info: VideoInfo,
        encode: TranscodeConfig,
    ) -> Iterator[RawClip]:
        """Encode an episode; no clip is yielded before all its frames were matched to rows.

        Raises:
            DataError: a frame is damaged, missing, or not at its row's time.
        """
        max_frames = max(2, math.floor(encode.segment * self.info.fps + 1e-6))
        num_segments = min(math.ceil(episode.length / max_frames), episode.length // 2)
        bounds = [episode.length * part // num_segments for part in range(num_segments + 1)]
        segments = list(encode_episode(file, video_info, episode, self.info.fps, bounds, encode))
        for number, (segment, (first, last)) in enumerate(
            zip(segments, pairwise(bounds), strict=True)
        ):
            yield clip_of_segment(
                segment,
                f"episode-{episode.index:06d}-{number:03d}",
                self._episode_uri(episode),
                self._sidecars(episode, columns, first, last),
            )

    def _sidecars(
        self, episode: LeRobotEpisode, columns: dict[str, Floats], first: int, last: int
    ) -> dict[str, bytes]:
        metadata = {
            "episode": episode.index,
            "start": first,
            "camera": self.info.camera,
            "tasks": episode.tasks,
            "names": self.info.names,
        }
        extras = {"json": json.dumps({"lerobot": metadata}).encode()}
        if STATE_FEATURE in columns:
            extras["states.npy"] = _to_npy_bytes(columns[STATE_FEATURE][first:last])
        if ACTION_FEATURE in columns:
            actions = columns[ACTION_FEATURE][first:last].copy()
            actions[-1] = 0  # it leads to a frame outside the clip
            extras["actions.npy"] = _to_npy_bytes(actions)
        return extras


def check_episode_frames(episode: LeRobotEpisode, info: LeRobotInfo, video_info: VideoInfo) -> None:
    """Check that a video has a frame for every row of an episode.

    Raises:
        DataError: it has another rate, or more or fewer frames.
    """
    if episode.length < 2:
        raise DataError("one row is not a video" if episode.length else "no rows")
    if abs(float(video_info.fps) / info.fps - 1) > 0.01:
        raise DataError(
            f"the video has {float(video_info.fps):g} frames a second, not {info.fps:g}"
        )
    half = 0.5 / info.fps
    inside = (video_info.frame_times > episode.begin - half) & (
        video_info.frame_times < episode.end - half
    )
    if int(inside.sum()) != episode.length:
        raise DataError(f"{int(inside.sum())} frames in the video, {episode.length} rows")


def encode_episode(
    file: IO[bytes],
    video_info: VideoInfo,
    episode: LeRobotEpisode,
    fps: float,
    bounds: list[int],
    encode: TranscodeConfig,
) -> Iterator[EncodedSegment]:
    """Re-encode the frames of an episode as segments, each from one row of `bounds` to the next.

    Raises:
        DataError: a frame is damaged, missing, or not at its row's time.
    """
    width, height = scaled_size(video_info, encode.short_side)
    rate = Fraction(fps).limit_denominator(1001)
    converter = FrameConverter(video_info, width, height, encode.chroma)
    file.seek(0)
    with open_video(file) as (container, stream):
        frames = _frames_by_row(container, stream, episode.begin, fps)
        for first, last in pairwise(bounds):
            encoder = SegmentEncoder(width, height, rate, encode)
            for row in range(first, last):
                frame_row, frame = next(frames, (-1, None))
                if frame_row != row:
                    raise DataError(f"the video has no frame for row {row}")
                encoder.add(converter.convert(frame), row - first)
            yield encoder.finish()


def _frames_by_row(
    container: Any, stream: Any, begin: float, fps: float
) -> Iterator[tuple[int, Any]]:
    """(row, frame) of every frame from `begin` seconds on.

    Raises:
        DataError: the decoder reports errors.
    """
    time_base, origin = float(stream.time_base), stream.start_time or 0
    container.seek(max(0, int((begin - 0.5 / fps) / time_base)) + origin, stream=stream)
    try:
        for packet in container.demux(stream):
            for frame in packet.decode():
                row = round(((frame.pts - origin) * time_base - begin) * fps)
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
