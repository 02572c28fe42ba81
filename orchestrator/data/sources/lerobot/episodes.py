"""Reads the tables of a LeRobot v3 folder: its episodes, and their states and actions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.sources.base import Rejected
from orchestrator.data.sources.inputs import (
    check_not_lfs_pointer,
    convert_input_errors,
    open_arrow_file,
)
from orchestrator.data.sources.lerobot.info import (
    EPISODES_FOLDER,
    INCOMPLETE_COPY_HINT,
    INDEX_FIELDS,
    LeRobotInfo,
)
from orchestrator.data.sources.listing import extension_of, is_hidden
from orchestrator.errors import DataError, RequestError
from orchestrator.storage import Storage


@dataclass(frozen=True)
class LeRobotEpisode:
    """Location of one episode: rows of one table, and seconds `begin` to `end` of one video.

    Its fields are written to work units, so their names and order are part of a dataset's digest.
    """

    index: int
    length: int
    table: str
    video: str
    begin: float
    end: float
    tasks: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LeRobotEpisode:
        return cls(**json.loads(text))


def read_episodes(storage: Storage, info: LeRobotInfo) -> list[LeRobotEpisode]:
    """Read all episodes from `meta/episodes/**/*.parquet`, in order.

    Raises:
        RequestError: the tables are missing, cannot be read, or lack a column.
    """
    where = storage.uri(EPISODES_FOLDER)
    episodes: list[LeRobotEpisode] = []
    with _convert_table_errors(where):
        tables = _list_episode_tables(storage)
    for path in tables:
        table_uri = storage.uri(path)
        with _convert_table_errors(table_uri):
            table = _read_episode_table(storage, path, info)
            rows = table.to_pylist()
        for column in table.column_names:
            if column != "tasks" and table[column].null_count:
                raise RequestError(
                    f"'{column}' is empty in some rows",
                    where=table_uri,
                    hint="every episode needs its location: write the folder again",
                )
        episodes += [_parse_episode(info, row) for row in rows]
    if not episodes:
        raise RequestError("no table of episodes", where=where, hint=INCOMPLETE_COPY_HINT)
    return sorted(episodes, key=lambda episode: episode.index)


def skipped_files(
    storage: Storage, info: LeRobotInfo, episodes: list[LeRobotEpisode]
) -> list[Rejected]:
    """Rows for episodes that `meta/info.json` counts but no table lists, and for files (videos of
    the camera, tables) that no episode uses."""
    rows = []
    missing = (info.num_episodes or 0) - len(episodes)
    if missing > 0:
        reason = f"lists {len(episodes)} episodes, meta/info.json counts {info.num_episodes}"
        rows.append(Rejected(storage.uri(EPISODES_FOLDER), reason, float(missing)))
    used = {path for episode in episodes for path in (episode.video, episode.table)}
    video_path = info.video_path.replace("{video_key}", info.camera)
    for template in (video_path, info.data_path):
        folder = template.partition("{")[0].rpartition("/")[0]
        extension = template.rpartition(".")[2].lower()
        for file in storage.files(folder, on_unreadable=lambda *_: None) if folder else ():
            if extension_of(file.path) == extension and file.path not in used:
                rows.append(Rejected(storage.uri(file.path), "left out: no episode names it", 0.0))
    return rows


def _list_episode_tables(storage: Storage) -> list[str]:
    """The tables of episodes, without hidden files."""
    paths = [file.path for file in storage.files(EPISODES_FOLDER) if file.path.endswith(".parquet")]
    return [path for path in paths if not is_hidden(path)]


@contextmanager
def _convert_table_errors(where: str) -> Iterator[None]:
    """Convert any error of reading a table of episodes.

    Args:
        where: path or URI of the table.

    Raises:
        RequestError: the table cannot be read.
    """
    try:
        yield
    except DataError as error:
        raise RequestError(error.what, where=where, hint=INCOMPLETE_COPY_HINT) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or ["no reason"])[0]
        raise RequestError(
            f"cannot be read: {reason}", where=where, hint=INCOMPLETE_COPY_HINT
        ) from None


def _read_episode_table(storage: Storage, path: str, info: LeRobotInfo) -> pa.Table:
    """Read the columns with the locations and the tasks of episodes.

    Raises:
        RequestError: a column is missing or not numeric.
    """
    with open_arrow_file(storage, path) as file:
        check_not_lfs_pointer(file)
        table = pq.ParquetFile(file)
        schema, columns = table.schema_arrow, _required_columns(info.camera)
        for name, integer_only in columns.items():
            column_type = schema.field(name).type if name in schema.names else None
            if column_type is None or not is_numeric(column_type, integer_only=integer_only):
                raise RequestError(
                    f"'{name}' is {column_type}, not a number"
                    if column_type
                    else f"no column '{name}'",
                    where=storage.uri(path),
                    hint="a v3 table of episodes has it for every camera",
                )
        return table.read(columns=[*columns, *({"tasks"} & set(schema.names))])


def _required_columns(camera: str) -> dict[str, bool]:
    """The columns that are read, and whether they hold integers."""
    video = f"videos/{camera}"
    locations = (f"{kind}/{name}" for kind in ("data", video) for name in INDEX_FIELDS)
    return {
        **dict.fromkeys(("episode_index", "length", *locations), True),
        f"{video}/from_timestamp": False,
        f"{video}/to_timestamp": False,
    }


def is_numeric(kind: pa.DataType, *, integer_only: bool = False) -> bool:
    """Whether a column type is numeric, or integer."""
    return bool(pa.types.is_integer(kind) or (not integer_only and pa.types.is_floating(kind)))


def _parse_episode(info: LeRobotInfo, row: dict[str, Any]) -> LeRobotEpisode:
    video, tasks = f"videos/{info.camera}", row.get("tasks") or []
    return LeRobotEpisode(
        index=row["episode_index"],
        length=row["length"],
        table=info.data_path.format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        ),
        video=info.video_path.format(
            video_key=info.camera,
            chunk_index=row[f"{video}/chunk_index"],
            file_index=row[f"{video}/file_index"],
        ),
        begin=row[f"{video}/from_timestamp"],
        end=row[f"{video}/to_timestamp"],
        tasks=[str(task) for task in ([tasks] if isinstance(tasks, str) else tasks)],
    )


_ORDER_COLUMNS = ("frame_index", "timestamp")


Floats = npt.NDArray[np.float32]


def read_states_and_actions(
    storage: Storage, episode: LeRobotEpisode, info: LeRobotInfo
) -> dict[str, Floats]:
    """Read the states and actions of an episode, float32 [length, numbers], by column name.

    Raises:
        DataError: the table is missing or damaged, has another number of rows or another rate
            than it should, or a value is not a finite number.
    """
    table = _read_table_rows(storage, episode, [*info.names, *_ORDER_COLUMNS]).sort_by(
        _ORDER_COLUMNS[0]
    )
    for name in _ORDER_COLUMNS:
        if table[name].null_count:
            raise DataError(f"'{name}' is empty in some rows")
    frames = table["frame_index"].to_numpy()
    if len(frames) != episode.length:
        raise DataError(f"{len(frames)} rows in the table, {episode.length} in the episode")
    if (frames != np.arange(episode.length)).any():
        raise DataError(
            f"frame_index runs from {frames[0]:g} to {frames[-1]:g} in {len(frames)} rows, where"
            f" it must count from 0 to {episode.length - 1}"
        )
    times = table["timestamp"].to_numpy()
    if not (np.abs(times - frames / info.fps) < 0.5 / info.fps).all():
        raise DataError(f"the table's times are not {info.fps:g} rows a second")
    return {name: _to_float32(table[name], name) for name in info.names}


def _read_table_rows(storage: Storage, episode: LeRobotEpisode, columns: list[str]) -> pa.Table:
    """Read some columns of an episode's rows.

    Raises:
        DataError: the table is missing or damaged, or a column is missing or not numeric.
    """
    try:
        with convert_input_errors(storage), open_arrow_file(storage, episode.table) as file:
            check_not_lfs_pointer(file)
            schema = pq.read_schema(file)
            for name in (*columns, "episode_index"):
                count = schema.names.count(name)
                if count != 1:
                    raise DataError(f"{count} columns '{name}'" if count else f"no column '{name}'")
            for name in (*_ORDER_COLUMNS, "episode_index"):
                if not is_numeric(schema.field(name).type):
                    raise DataError(f"'{name}' holds {schema.field(name).type}, not numbers")
            file.seek(0)
            of_episode = [("episode_index", "=", episode.index)]
            return pq.read_table(file, columns=columns, filters=of_episode)
    except DataError as error:
        raise DataError(f"{episode.table}: {error.what}") from None
    except OSError as error:  # pyarrow raises it for a damaged table, too
        reason = str(error).splitlines()[0]
        raise DataError(f"{episode.table}: cannot be read: {reason}") from None


def _to_float32(column: pa.ChunkedArray, name: str) -> Floats:
    """Convert a column of numbers, or of lists of one length, to float32 [rows, numbers].

    Raises:
        DataError: the lists differ in length, or a value is not a finite number.
    """
    try:
        values = np.array(column.to_pylist(), np.float32)
    except (TypeError, ValueError):
        raise DataError(f"'{name}': not lists of numbers of one length") from None
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise DataError(f"'{name}': not a finite number in row {row}")
    rows: Floats = values.reshape(len(values), -1)
    return rows
