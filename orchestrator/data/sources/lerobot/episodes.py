"""Where the episodes of a LeRobot v3 folder lie: `meta/episodes/**/*.parquet`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.sources.base import Rejected
from orchestrator.data.sources.inputs import open_native, refuse_pointer
from orchestrator.data.sources.lerobot.info import EPISODES, INDICES, WHOLE, Info
from orchestrator.data.sources.listing import extension_of, is_hidden
from orchestrator.errors import DataError, RequestError
from orchestrator.storage import Storage


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


def read_episodes(storage: Storage, info: Info) -> list[RobotEpisode]:
    """Every episode, in order.

    Raises:
        RequestError: their tables are missing, cannot be read, or lack a column.
    """
    where = storage.uri(EPISODES)
    found: list[RobotEpisode] = []
    with _readable(where):
        tables = _tables(storage)
    for path in tables:
        place = storage.uri(path)
        with _readable(place):
            table = _read(storage, path, info)
            rows = table.to_pylist()
        for column in table.column_names:
            if column != "tasks" and table[column].null_count:
                raise RequestError(
                    f"'{column}' is empty in some rows",
                    where=place,
                    mend="every episode must say where it lies: write the folder again",
                )
        found += [_episode(info, row) for row in rows]
    if not found:
        raise RequestError("no table of episodes", where=where, mend=WHOLE)
    return sorted(found, key=lambda episode: episode.index)


def left_out(storage: Storage, info: Info, episodes: list[RobotEpisode]) -> list[Rejected]:
    """Rows for episodes that `meta/info.json` counts and no table lists, and for videos of the
    camera and tables that no episode names."""
    rows = []
    missing = (info.episodes or 0) - len(episodes)
    if missing > 0:
        reason = f"lists {len(episodes)} episodes, meta/info.json counts {info.episodes}"
        rows.append(Rejected(storage.uri(EPISODES), reason, float(missing)))
    named = {path for episode in episodes for path in (episode.video, episode.table)}
    video_path = info.video_path.replace("{video_key}", info.camera)
    for template in (video_path, info.data_path):
        folder = template.partition("{")[0].rpartition("/")[0]
        extension = template.rpartition(".")[2].lower()
        for file in storage.files(folder, refused=lambda *_: None) if folder else ():
            if extension_of(file.path) == extension and file.path not in named:
                rows.append(Rejected(storage.uri(file.path), "left out: no episode names it", 0.0))
    return rows


def _tables(storage: Storage) -> list[str]:
    """The tables of episodes, hidden files left out."""
    found = [file.path for file in storage.files(EPISODES) if file.path.endswith(".parquet")]
    return [path for path in found if not is_hidden(path)]


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Whatever is wrong with a table of episodes, as one line that names it.

    Raises:
        RequestError: what is wrong.
    """
    try:
        yield
    except DataError as error:
        raise RequestError(error.what, where=where, mend=WHOLE) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or ["no reason"])[0]
        raise RequestError(f"cannot be read: {reason}", where=where, mend=WHOLE) from None


def _read(storage: Storage, path: str, info: Info) -> pa.Table:
    """The columns of a table of episodes that say where each lies, and its tasks."""
    with open_native(storage, path) as file:
        refuse_pointer(file)
        table = pq.ParquetFile(file)
        there, columns = table.schema_arrow, _columns(info.camera)
        for name, whole in columns.items():
            kind = there.field(name).type if name in there.names else None
            if kind is None or not is_number(kind, whole=whole):
                raise RequestError(
                    f"'{name}' is {kind}, not a number" if kind else f"no column '{name}'",
                    where=storage.uri(path),
                    mend="a v3 table of episodes has it for every camera",
                )
        return table.read(columns=[*columns, *({"tasks"} & set(there.names))])


def _columns(camera: str) -> dict[str, bool]:
    """The columns that are read, and whether they hold whole numbers."""
    video = f"videos/{camera}"
    places = (f"{kind}/{name}" for kind in ("data", video) for name in INDICES)
    return {
        **dict.fromkeys(("episode_index", "length", *places), True),
        f"{video}/from_timestamp": False,
        f"{video}/to_timestamp": False,
    }


def is_number(kind: pa.DataType, *, whole: bool = False) -> bool:
    """Whether a column holds numbers, or whole ones."""
    return bool(pa.types.is_integer(kind) or (not whole and pa.types.is_floating(kind)))


def _episode(info: Info, row: dict[str, Any]) -> RobotEpisode:
    video, tasks = f"videos/{info.camera}", row.get("tasks") or []
    return RobotEpisode(
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
