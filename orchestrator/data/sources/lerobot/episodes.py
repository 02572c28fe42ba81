"""Where the episodes of a LeRobot v3 folder lie: `meta/episodes/**/*.parquet`."""

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
    """Where one episode lies: rows of one table, and seconds `begin` to `end` of one video."""

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
    """Every episode, in order.

    Raises:
        RequestError: their tables are missing, cannot be read, or lack a column.
    """
    where = storage.uri(EPISODES_FOLDER)
    found: list[LeRobotEpisode] = []
    with _convert_table_errors(where):
        tables = _list_episode_tables(storage)
    for path in tables:
        place = storage.uri(path)
        with _convert_table_errors(place):
            table = _read_episode_table(storage, path, info)
            rows = table.to_pylist()
        for column in table.column_names:
            if column != "tasks" and table[column].null_count:
                raise RequestError(
                    f"'{column}' is empty in some rows",
                    where=place,
                    hint="every episode must say where it lies: write the folder again",
                )
        found += [_parse_episode(info, row) for row in rows]
    if not found:
        raise RequestError("no table of episodes", where=where, hint=INCOMPLETE_COPY_HINT)
    return sorted(found, key=lambda episode: episode.index)


def skipped_files(
    storage: Storage, info: LeRobotInfo, episodes: list[LeRobotEpisode]
) -> list[Rejected]:
    """Rows for episodes that `meta/info.json` counts and no table lists, and for videos of the
    camera and tables that no episode names."""
    rows = []
    missing = (info.num_episodes or 0) - len(episodes)
    if missing > 0:
        reason = f"lists {len(episodes)} episodes, meta/info.json counts {info.num_episodes}"
        rows.append(Rejected(storage.uri(EPISODES_FOLDER), reason, float(missing)))
    named = {path for episode in episodes for path in (episode.video, episode.table)}
    video_path = info.video_path.replace("{video_key}", info.camera)
    for template in (video_path, info.data_path):
        folder = template.partition("{")[0].rpartition("/")[0]
        extension = template.rpartition(".")[2].lower()
        for file in storage.files(folder, on_unreadable=lambda *_: None) if folder else ():
            if extension_of(file.path) == extension and file.path not in named:
                rows.append(Rejected(storage.uri(file.path), "left out: no episode names it", 0.0))
    return rows


def _list_episode_tables(storage: Storage) -> list[str]:
    """The tables of episodes, hidden files left out."""
    found = [file.path for file in storage.files(EPISODES_FOLDER) if file.path.endswith(".parquet")]
    return [path for path in found if not is_hidden(path)]


@contextmanager
def _convert_table_errors(where: str) -> Iterator[None]:
    """Whatever is wrong with a table of episodes, as one line that names it.

    Raises:
        RequestError: what is wrong.
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
    """The columns of a table of episodes that say where each lies, and its tasks."""
    with open_arrow_file(storage, path) as file:
        check_not_lfs_pointer(file)
        table = pq.ParquetFile(file)
        there, columns = table.schema_arrow, _required_columns(info.camera)
        for name, whole in columns.items():
            kind = there.field(name).type if name in there.names else None
            if kind is None or not is_numeric(kind, integer_only=whole):
                raise RequestError(
                    f"'{name}' is {kind}, not a number" if kind else f"no column '{name}'",
                    where=storage.uri(path),
                    hint="a v3 table of episodes has it for every camera",
                )
        return table.read(columns=[*columns, *({"tasks"} & set(there.names))])


def _required_columns(camera: str) -> dict[str, bool]:
    """The columns that are read, and whether they hold whole numbers."""
    video = f"videos/{camera}"
    places = (f"{kind}/{name}" for kind in ("data", video) for name in INDEX_FIELDS)
    return {
        **dict.fromkeys(("episode_index", "length", *places), True),
        f"{video}/from_timestamp": False,
        f"{video}/to_timestamp": False,
    }


def is_numeric(kind: pa.DataType, *, integer_only: bool = False) -> bool:
    """Whether a column holds numbers, or whole ones."""
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
    """States and actions of an episode, float32 [length, numbers], by the column's name.

    Raises:
        DataError: the table is missing or damaged, has another number of rows or another rate
            than it should, or something in it is no finite number.
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


def _read_table_rows(storage: Storage, episode: LeRobotEpisode, wanted: list[str]) -> pa.Table:
    """The rows of an episode with the columns that are read.

    Raises:
        DataError: there is no such table, it is damaged, or a column is missing or has no numbers.
    """
    try:
        with convert_input_errors(storage), open_arrow_file(storage, episode.table) as file:
            check_not_lfs_pointer(file)
            schema = pq.read_schema(file)
            for name in (*wanted, "episode_index"):
                count = schema.names.count(name)
                if count != 1:
                    raise DataError(f"{count} columns '{name}'" if count else f"no column '{name}'")
            for name in (*_ORDER_COLUMNS, "episode_index"):
                if not is_numeric(schema.field(name).type):
                    raise DataError(f"'{name}' holds {schema.field(name).type}, not numbers")
            file.seek(0)
            own = [("episode_index", "=", episode.index)]
            return pq.read_table(file, columns=wanted, filters=own)
    except DataError as error:
        raise DataError(f"{episode.table}: {error.what}") from None
    except OSError as error:  # as pyarrow calls a damaged table, too
        reason = str(error).splitlines()[0]
        raise DataError(f"{episode.table}: cannot be read: {reason}") from None


def _to_float32(column: pa.ChunkedArray, name: str) -> Floats:
    """A column of numbers, or of lists of one length, as float32 [rows, numbers]."""
    try:
        found = np.array(column.to_pylist(), np.float32)
    except (TypeError, ValueError):
        raise DataError(f"'{name}': not lists of numbers of one length") from None
    if not np.isfinite(found).all():
        row = int(np.argwhere(~np.isfinite(found))[0][0])
        raise DataError(f"'{name}': not a finite number in row {row}")
    flat: Floats = found.reshape(len(found), -1)
    return flat
