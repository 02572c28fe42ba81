"""LeRobot folders that are cut, older or newer than they say: refused by name, or one episode is
a row; never taken for plain videos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.sources.base import RawClip, Rejected, Source
from orchestrator.data.sources.folder import FolderSource
from orchestrator.data.sources.lerobot.source import LeRobotSource
from orchestrator.data.sources.open import open_source
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support.lerobot import CAMERA, write_lerobot_dataset, write_parquet
from tests.support.videos import pack_job, write_video

INFO = "meta/info.json"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TABLE, VIDEO = "data/chunk-000/file-000.parquet", f"videos/{CAMERA}/chunk-000/file-000.mp4"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
OLD_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
OLD_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lerobot_dataset(tmp_path_factory.mktemp("robot"), [6, 5])


@pytest.fixture
def folder(tmp_path: Path, robot: Path) -> Path:
    return Path(shutil.copytree(robot, tmp_path / "robot"))


def _told(folder: Path, uri: str | None = None) -> str:
    """Why a folder is refused, when it is opened or listed; in one line, its place first."""

    def units() -> None:
        source = open_source(uri or str(folder))
        assert isinstance(source, LeRobotSource)
        source.units()

    with pytest.raises(RequestError) as raised:
        units()
    error = raised.value
    assert "\n" not in error.what
    return f"{error.where.removeprefix(f'{folder}/')}: {error.what}"


def _reasons(folder: Path) -> dict[str, str]:
    """Why an episode is a row, by its number."""
    source = open_source(str(folder))
    assert isinstance(source, LeRobotSource)
    found = [item for unit in source.units() for item in source.clips(unit, TranscodeConfig())]
    return {
        item.source.rpartition("-")[2]: item.reason for item in found if isinstance(item, Rejected)
    }


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"codebase_version": "v3.0", "fps": 10, "feat', "is truncated or not JSON: "),
        ("{", "is truncated or not JSON"),
        (POINTER, "a Git LFS pointer, not the file itself"),
        ("[]", "is not a JSON object but a list"),
        ('"v3.0"', "is not a JSON object but a str"),
        ("null", "is not a JSON object but a NoneType"),
        ("[" * 100_000, "is truncated or not JSON"),
        (b"\xff\xfe\x00", "is truncated or not JSON"),
        (b"\x00" * 300, "is truncated or not JSON"),
    ],
)
def test_an_info_that_cannot_be_read_is_refused(folder: Path, body: str | bytes, says: str) -> None:
    (folder / INFO).write_bytes(body if isinstance(body, bytes) else body.encode())
    assert _told(folder).startswith(f"{INFO}: {says}")
    assert _told(folder, f"lerobot://{folder}").startswith(f"{INFO}: {says}")


MISSING = object()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("codebase_version", MISSING, "no 'codebase_version'"),
        ("codebase_version", None, "no 'codebase_version'"),
        ("codebase_version", "v2.0", "LeRobot v2.0: only v3 is read"),
        ("codebase_version", "v2.1", "LeRobot v2.1: only v3 is read"),
        ("codebase_version", "v4.0", "LeRobot v4.0: only v3 is read"),
        ("codebase_version", "v30.0", "LeRobot v30.0: only v3 is read"),
        ("codebase_version", "latest", "LeRobot latest: only v3 is read"),
        ("fps", MISSING, "fps is null"),
        ("fps", "10", 'fps is "10"'),
        ("fps", 0, "fps is 0"),
        ("fps", -1, "fps is -1"),
        ("fps", float("nan"), "fps is NaN"),
        ("fps", float("inf"), "fps is Infinity"),
        ("fps", True, "fps is true"),
        ("fps", [10], "fps is [10]"),
        ("fps", 10**400, "fps is 1000"),
        ("features", MISSING, "'features' is not a JSON object"),
        ("features", ["action"], "'features' is not a JSON object"),
        ("features", {"action": "float32"}, "the feature 'action' has no dtype"),
        ("features", {CAMERA: {"shape": [1]}}, f"the feature '{CAMERA}' has no dtype"),
        ("features", {CAMERA: {"dtype": 3}}, f"the feature '{CAMERA}' has no dtype"),
        ("features", {}, "no camera is stored as video"),
        ("features", {"../up": {"dtype": "video"}}, "the camera '../up' is outside the folder"),
        ("data_path", MISSING, "no 'data_path'"),
        ("data_path", 7, "no 'data_path'"),
        ("data_path", OLD_PATH, f"'data_path' is {OLD_PATH}, and v3 has no '{{episode_chunk}}'"),
        ("data_path", "data/{}.parquet", "'data_path' is data/{}.parquet, and v3 has no '{}'"),
        ("data_path", "data/{0}.parquet", "'data_path' is data/{0}.parquet, and v3 has no '{0}'"),
        ("data_path", "data/{chunk_index", "'data_path' is data/{chunk_index: expected '}'"),
        ("data_path", "{chunk_index.x}", "'data_path' is {chunk_index.x}, and v3 has no"),
        ("data_path", "{chunk_index:q}", "'data_path' is {chunk_index:q}: 'q' is not a"),
        ("data_path", "{chunk_index:0999999999d}", "'data_path' is {chunk_index:0999999999d}: '0"),
        ("data_path", "{chunk_index!r}", "'data_path' is {chunk_index!r}: "),
        ("data_path", "../{chunk_index}", "'data_path' is ../{chunk_index}, outside"),
        ("data_path", "/data/{chunk_index}", "'data_path' is /data/{chunk_index}, outside"),
        ("video_path", MISSING, "no 'video_path'"),
        ("video_path", None, "no 'video_path'"),
        ("video_path", OLD_VIDEO, f"'video_path' is {OLD_VIDEO}, and v3 has no"),
        ("video_path", "videos/../../{video_key}.mp4", "'video_path' is videos/../../{video_key}"),
    ],
)  # fmt: skip
def test_a_key_that_is_wrong_is_refused_by_name(
    folder: Path, key: str, value: object, says: str
) -> None:
    info = json.loads((folder / INFO).read_text())
    if value is MISSING:
        del info[key]
    else:
        info[key] = value
    (folder / INFO).write_text(json.dumps(info))
    assert _told(folder).startswith(f"{INFO}: {says}")


@pytest.mark.parametrize("value", ["v3.0", "v3.1", "3.0", "v3"])
def test_versions_of_v3_are_read(folder: Path, value: str) -> None:
    info = json.loads((folder / INFO).read_text())
    (folder / INFO).write_text(json.dumps({**info, "codebase_version": value}))
    assert _reasons(folder) == {}


@pytest.mark.parametrize(
    "left",
    [
        ["meta/episodes", "data", "videos"],
        ["meta/episodes", "videos"],
        ["data", "videos"],
        ["meta/episodes.jsonl", "videos"],
        ["meta/tasks.jsonl", "videos"],
        ["meta/tasks.parquet", "videos"],
    ],
)
def test_without_its_info_a_robot_s_folder_is_known_by_the_rest(
    folder: Path, tmp_path: Path, left: list[str]
) -> None:
    part = tmp_path / "part"
    for name in left:
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        if (folder / name).exists():
            shutil.copytree(folder / name, part / name)
        else:
            (part / name).write_bytes(b"{}")
    assert _told(part) == f"{INFO}: not a LeRobot folder: no such file"


def test_videos_that_are_named_themselves_are_plain_videos(folder: Path) -> None:
    source = open_source(str(folder / "videos"))
    assert isinstance(source, FolderSource)


@pytest.mark.parametrize("body", ['{"title": "holiday"}', "{}"])
def test_another_tool_s_info_beside_videos_is_a_row(tmp_path: Path, body: str) -> None:
    write_video(tmp_path / "in/a.mp4", frames=4)
    (tmp_path / "in/meta").mkdir()
    (tmp_path / "in/meta/info.json").write_text(body)
    (index,) = run_pack(pack_job(tmp_path / "in", tmp_path / "out"), SilentProgress(), local=True)
    (row,) = read_quarantine(Storage(index.uri))
    assert row.source.endswith("meta/info.json")


def test_a_robot_s_folder_inside_of_a_source_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(RequestError, match="a LeRobot folder is inside the source") as raised:
        open_source(str(folder.parent))
    assert raised.value.where == str(folder)
    (folder / INFO).write_text("{")
    with pytest.raises(RequestError, match="a LeRobot folder is inside the source"):
        open_source(str(folder.parent))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "meta/episodes: no table of episodes"),
        (lambda path: shutil.rmtree(path.parents[1]), "meta/episodes: no table of episodes"),
        (_cut, f"{EPISODES}: cannot be read: "),
        (lambda path: path.write_bytes(b""), f"{EPISODES}: cannot be read: "),
        (lambda path: path.write_text(POINTER), f"{EPISODES}: a Git LFS pointer"),
        (lambda path: path.write_text("{}"), f"{EPISODES}: cannot be read: "),
    ],
)
def test_a_table_of_episodes_that_cannot_be_read_is_refused(
    folder: Path, change: Callable[[Path], object], says: str
) -> None:
    change(folder / EPISODES)
    assert _told(folder).startswith(says)


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("length", ["6", "5"], "'length' is string, not a number"),
        ("length", [6.0, 5.0], "'length' is double, not a number"),
        ("data/chunk_index", ["0", "0"], "'data/chunk_index' is string, not a number"),
        (f"videos/{CAMERA}/file_index", None, f"no column 'videos/{CAMERA}/file_index'"),
        (f"videos/{CAMERA}/from_timestamp", ["a", "b"], f"'videos/{CAMERA}/from_timestamp' is str"),
        ("episode_index", [0, None], "'episode_index' is empty in some rows"),
    ],
)
def test_a_column_that_says_nothing_is_refused(
    folder: Path, column: str, values: list[Any] | None, says: str
) -> None:
    table = pq.read_table(folder / EPISODES)
    at = table.column_names.index(column)
    write_parquet(
        folder / EPISODES,
        table.set_column(at, column, pa.array(values)) if values else table.remove_column(at),
    )
    assert _told(folder).startswith(f"{EPISODES}: {says}")


def test_hidden_files_beside_the_tables_are_none(folder: Path) -> None:
    (folder / EPISODES).with_name("._file-000.parquet").write_bytes(b"macOS")
    assert _reasons(folder) == {}


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        (TABLE, _cut, f"{TABLE}: cannot be read: "),
        (TABLE, lambda path: path.write_bytes(b""), f"{TABLE}: cannot be read: "),
        (TABLE, lambda path: path.write_text(POINTER), f"{TABLE}: a Git LFS pointer"),
        (TABLE, lambda path: path.unlink(), f"{TABLE}: no such file"),
        (TABLE, lambda path: (path.unlink(), path.mkdir()), f"{TABLE}: "),
        (VIDEO, lambda path: path.write_text(POINTER), f"{VIDEO}: a Git LFS pointer"),
        (VIDEO, lambda path: path.write_bytes(b""), f"{VIDEO}: "),
        (VIDEO, lambda path: path.unlink(), f"{VIDEO}: no such file"),
        (VIDEO, lambda path: (path.unlink(), path.symlink_to(path.name)), f"{VIDEO}: "),
    ],
)
def test_a_table_or_video_that_cannot_be_read_costs_its_episodes(
    folder: Path, path: str, change: Callable[[Path], object], says: str
) -> None:
    change(folder / path)
    reasons = _reasons(folder)
    assert set(reasons) == {"0", "1"}
    assert all(reason.startswith(says) for reason in reasons.values())


@pytest.mark.parametrize(
    ("column", "change", "says"),
    [
        ("frame_index", lambda rows: [row + 1 for row in rows],
            "frame_index runs from 1 to 6 in 6 rows, where it must count from 0 to 5"),
        ("frame_index", lambda rows: [0, 1, 1, 3, 4, 5, *rows[6:]],
            "frame_index runs from 0 to 5 in 6 rows, where it must count from 0 to 5"),
        ("frame_index", lambda rows: [0, 1, 2, 3, 4, 9, *rows[6:]],
            "frame_index runs from 0 to 9 in 6 rows, where it must count from 0 to 5"),
        ("frame_index", lambda rows: [None, *rows[1:]], "'frame_index' is empty in some rows"),
        ("frame_index", lambda rows: [str(row) for row in rows],
            f"{TABLE}: 'frame_index' holds string, not numbers"),
        ("timestamp", lambda rows: [None, *rows[1:]], "'timestamp' is empty in some rows"),
        ("timestamp", lambda rows: [str(row) for row in rows],
            f"{TABLE}: 'timestamp' holds string, not numbers"),
        ("episode_index", lambda rows: [str(row) for row in rows],
            f"{TABLE}: 'episode_index' holds string, not numbers"),
        ("action", lambda rows: ["up"] * len(rows), "'action': not lists of numbers"),
    ],
)  # fmt: skip
def test_a_column_of_a_table_that_is_wrong_costs_its_episodes(
    folder: Path, column: str, change: Callable[[list[Any]], list[Any]], says: str
) -> None:
    table = pq.read_table(folder / TABLE)
    at = table.column_names.index(column)
    rows = pa.array(change(table[column].to_pylist()))
    write_parquet(folder / TABLE, table.set_column(at, column, rows))
    assert _reasons(folder)["0"].startswith(says)


def test_files_that_no_episode_names_and_episodes_that_no_table_lists_are_rows(
    folder: Path,
) -> None:
    stray = folder / VIDEO.replace("file-000", "file-009")
    shutil.copy(folder / VIDEO, stray)
    shutil.copy(folder / TABLE, folder / TABLE.replace("file-000", "file-009"))
    info = json.loads((folder / INFO).read_text())
    (folder / INFO).write_text(json.dumps({**info, "total_episodes": 5}))
    job = pack_job(folder, folder.parent / "out", bad_limit=0.6)
    (index,) = run_pack(job, SilentProgress(), local=True)
    assert index.num_clips == 2
    rows = read_quarantine(Storage(index.uri))
    assert {row.source.removeprefix(f"{folder}/"): row.reason for row in rows} == {
        "meta/episodes": "lists 2 episodes, meta/info.json counts 5",
        VIDEO.replace("file-000", "file-009"): "left out: no episode names it",
        TABLE.replace("file-000", "file-009"): "left out: no episode names it",
    }


def test_a_whole_folder_has_no_rows(folder: Path) -> None:
    source = open_source(str(folder))
    assert isinstance(source, Source)
    (unit,) = source.units()
    assert [type(item) for item in source.clips(unit, TranscodeConfig())] == [RawClip, RawClip]
    assert isinstance(source, LeRobotSource)
    assert source.left_out() == []
