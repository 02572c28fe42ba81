"""Rows of a LeRobot v3 table: states and actions of one episode."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.sources.inputs import (
    check_not_lfs_pointer,
    convert_input_errors,
    open_arrow_file,
)
from orchestrator.data.sources.lerobot.episodes import LeRobotEpisode, is_numeric
from orchestrator.data.sources.lerobot.info import LeRobotInfo
from orchestrator.errors import DataError
from orchestrator.storage import Storage

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
