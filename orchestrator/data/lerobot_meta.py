"""What a LeRobot v3 folder says of itself: `meta/info.json` and `meta/episodes/**/*.parquet`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import RequestError, suggest
from orchestrator.storage import Storage

INFO, EPISODES = "meta/info.json", "meta/episodes"
ACTION, STATE = "action", "observation.state"
CONVERT = (
    "convert it with LeRobot itself: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30"
    " --repo-id=NAME"
)


@dataclass(frozen=True)
class Info:
    """`camera`: the feature that is read; `names`: what each number of action and state is."""

    fps: float
    camera: str
    data_path: str
    video_path: str
    names: dict[str, Any]


@dataclass(frozen=True)
class RobotEpisode:
    """Where one episode lies: rows of one table, and seconds `begin` to `end` of one video."""

    index: int
    length: int
    table: str
    video: str
    begin: float
    end: float
    tasks: list[str] = field(default_factory=list)

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> RobotEpisode:
        return cls(**json.loads(text))


def is_lerobot(storage: Storage) -> bool:
    """Whether a folder says that LeRobot wrote it, in whichever version."""
    if not storage.exists(INFO):
        return False
    try:
        found = storage.read_json(INFO)
    except ValueError:
        return False
    return isinstance(found, dict) and "codebase_version" in found


def read_info(storage: Storage, camera: str | None) -> Info:
    """The folder's description, for one of its cameras; None: the only one.

    Raises:
        RequestError: it cannot be read, is of another version, has no such camera or several.
    """
    where = storage.uri(INFO)
    try:
        info = storage.read_json(INFO)
        version = str(info["codebase_version"])
        features: dict[str, Any] = info["features"]
        fps, data_path = float(info["fps"]), str(info["data_path"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(
            f"not a LeRobot folder: {type(error).__name__}: {error}",
            where=where,
            mend="name the folder in which LeRobot wrote meta, data and videos",
        ) from None
    if not version.removeprefix("v").startswith("3."):
        raise RequestError(
            f"LeRobot {version}: only v3 is read",
            where=where,
            mend=CONVERT if version.removeprefix("v").startswith("2") else "write it as v3.0",
        )
    if not fps > 0:
        raise RequestError(f"fps is {fps:g}", where=where, mend="it is frames a second, above 0")
    return Info(
        fps=fps,
        camera=_camera(features, camera, where),
        data_path=data_path,
        video_path=str(info.get("video_path")),
        names={key: features[key].get("names") for key in (STATE, ACTION) if key in features},
    )


def _camera(features: dict[str, Any], wanted: str | None, where: str) -> str:
    """The feature that is the camera's video."""
    cameras = [key for key, value in features.items() if value.get("dtype") == "video"]
    if not cameras:
        raise RequestError(
            "no camera is kept as video", where=where, mend="pictures in the table are not read"
        )
    if wanted is not None and wanted not in cameras:
        raise RequestError(f"no camera '{wanted}'", where=where, mend=suggest(wanted, cameras))
    if wanted is None and len(cameras) > 1:
        raise RequestError(
            f"{len(cameras)} cameras: {', '.join(cameras)}",
            where=where,
            mend=f"say which one: lerobot://PATH?camera={cameras[0]}",
        )
    return wanted or cameras[0]


def read_episodes(storage: Storage, info: Info) -> list[RobotEpisode]:
    """Every episode, in order.

    Raises:
        RequestError: their tables are missing, cannot be read, or lack a column.
    """
    where = storage.uri(EPISODES)
    paths = [e.path for e in storage.files(EPISODES) if e.path.endswith(".parquet")]
    if not paths:
        raise RequestError("no table of episodes", where=where, mend="is the folder copied whole?")
    video = f"videos/{info.camera}"
    columns = [
        "episode_index", "length", "data/chunk_index", "data/file_index", f"{video}/chunk_index",
        f"{video}/file_index", f"{video}/from_timestamp", f"{video}/to_timestamp",
    ]  # fmt: skip
    found: list[RobotEpisode] = []
    for path in sorted(paths):
        table = _read(storage, path, columns)
        tasks = table["tasks"].to_pylist() if "tasks" in table.column_names else [[]] * len(table)
        short = [name for name in columns if table[name].null_count]
        if short:
            raise RequestError(
                f"'{short[0]}' is empty in some rows",
                where=storage.uri(path),
                mend="every episode must say where it lies: write the folder again",
            )
        rows = zip(*(table[name].to_pylist() for name in columns), tasks, strict=True)
        found += [_episode(info, *row) for row in rows]
    return sorted(found, key=lambda episode: episode.index)


def _read(storage: Storage, path: str, columns: list[str]) -> pa.Table:
    try:
        with storage.fs.open_input_file(storage.at(path)) as file:
            table = pq.ParquetFile(file)
            missing = [name for name in columns if name not in table.schema_arrow.names]
            if missing:
                raise RequestError(
                    f"no column '{missing[0]}'",
                    where=storage.uri(path),
                    mend="a v3 table of episodes has it for every camera",
                )
            more = [name for name in ("tasks",) if name in table.schema_arrow.names]
            return table.read(columns=[*columns, *more])
    except (OSError, pa.ArrowException) as error:
        raise RequestError(
            f"cannot be read: {error}", where=storage.uri(path), mend="is the folder copied whole?"
        ) from None


def _episode(
    info: Info,
    index: int,
    length: int,
    data_chunk: int,
    data_file: int,
    video_chunk: int,
    video_file: int,
    begin: float,
    end: float,
    tasks: list[str],
) -> RobotEpisode:
    return RobotEpisode(
        index=index,
        length=length,
        table=info.data_path.format(chunk_index=data_chunk, file_index=data_file),
        video=info.video_path.format(
            video_key=info.camera, chunk_index=video_chunk, file_index=video_file
        ),
        begin=begin,
        end=end,
        tasks=tasks,
    )
