"""LeRobot v3 folders: every episode with its own frames, states and actions, or a reason."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.sources.base import CHANGED_WHILE_PACKING, RawClip, Rejected
from orchestrator.data.sources.lerobot.source import LeRobotSource
from orchestrator.data.sources.open import open_source
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support.lerobot import (
    CAMERA,
    actions_of,
    row_frame,
    states_of,
    write_lerobot_dataset,
    write_parquet,
)
from tests.support.videos import pack_job

TABLE, VIDEO = "data/chunk-000/file-000.parquet", f"videos/{CAMERA}/chunk-000/file-000.mp4"


def _clips(uri: Path | str, unit: int = 32, **encode: Any) -> list[RawClip | Rejected]:
    source = open_source(str(uri), unit)
    assert isinstance(source, LeRobotSource)
    return [clip for one in source.units() for clip in source.clips(one, TranscodeConfig(**encode))]


def _reasons(uri: Path) -> dict[str, str]:
    """Why an episode was rejected, by its number; those that were not are absent."""
    found = [clip for clip in _clips(uri) if isinstance(clip, Rejected)]
    return {one.source.rpartition("-")[2]: one.reason for one in found}


def _array(clip: RawClip, name: str) -> np.ndarray:
    found = np.load(io.BytesIO(clip.extras[f"{name}.npy"]), allow_pickle=False)
    assert found.dtype == np.float32
    return found


def _greys(clip: RawClip) -> np.ndarray:
    with av.open(io.BytesIO(clip.payload)) as container:
        shown = [f.to_ndarray(format="rgb24").mean() for f in container.decode(video=0)]
    return np.array(shown)


def _check(clip: RawClip, episode: int, length: int, start: int = 0) -> None:
    rows = range(start, start + clip.frames)
    wanted = [row_frame(episode, row).mean() for row in rows]
    np.testing.assert_allclose(_greys(clip), wanted, atol=1.4)  # rows are 3 apart
    np.testing.assert_array_equal(_array(clip, "states"), states_of(episode, length)[rows])
    actions = actions_of(episode, length)[rows]
    np.testing.assert_array_equal(_array(clip, "actions")[:-1], actions[:-1])
    assert not _array(clip, "actions")[-1].any()


@pytest.mark.parametrize("unit", [1, 2, 32])
def test_every_episode_has_its_own_frames_states_and_actions(tmp_path: Path, unit: int) -> None:
    lengths = [12, 9, 15]
    clips = _clips(write_lerobot_dataset(tmp_path / "robot", lengths), unit)
    assert [clip.key for clip in clips] == [f"episode-{e:06d}-000" for e in range(3)]
    for episode, clip in enumerate(clips):
        assert isinstance(clip, RawClip)
        assert (clip.frames, clip.fps, clip.width) == (lengths[episode], 10, 48)
        _check(clip, episode, lengths[episode])
        told = json.loads(clip.extras["json"])["lerobot"]
        assert told["tasks"] == [f"task {episode}"]
        assert told["names"] == {"observation.state": None, "action": ["x", "y"]}


def test_a_long_episode_is_cut_in_video_and_table_alike(tmp_path: Path) -> None:
    folder = write_lerobot_dataset(tmp_path, [8, 21])
    clips = [clip for clip in _clips(folder, segment=1.0) if "-000001-" in clip.key]
    assert [clip.frames for clip in clips] == [7, 7, 7]
    for number, clip in enumerate(clips):
        _check(clip, 1, 21, start=7 * number)


def test_packing_it_gives_a_dataset_with_its_extras(tmp_path: Path) -> None:
    folder = write_lerobot_dataset(tmp_path / "robot", frames=[12, 8, 15])
    job = pack_job(folder, tmp_path / "out", bad_limit=0.5)
    (index,) = run_pack(job, SilentProgress(), local=True)
    rows = DatasetIndex.open(index.uri).shard_rows(0).to_pylist()
    assert [row["key"] for row in rows] == ["episode-000000-000", "episode-000002-000"]
    (lost,) = read_quarantine(Storage(index.uri))
    assert lost.reason == "8 frames in the video, 9 rows"


def test_several_cameras_must_be_told_apart(tmp_path: Path) -> None:
    cameras = (CAMERA, "observation.images.wrist")
    folder = write_lerobot_dataset(tmp_path, cameras=cameras)
    with pytest.raises(RequestError, match=r"2 cameras: observation.images.top, .*wrist"):
        open_source(str(folder))
    for camera in cameras:
        clips = _clips(f"lerobot://{folder}?camera={camera}")
        assert json.loads(clips[0].extras["json"])["lerobot"]["camera"] == camera
    with pytest.raises(RequestError, match=r"did you mean 'observation\.images\.wrist'"):
        open_source(f"lerobot://{folder}?camera=observation.images.wris")
    with pytest.raises(RequestError, match="did you mean 'camera'"):
        open_source(f"lerobot://{folder}?cam=observation.images.top")


def test_one_camera_is_one_source_however_it_is_named(tmp_path: Path) -> None:
    folder = write_lerobot_dataset(tmp_path)
    named = open_source(f"lerobot://{folder}?camera={CAMERA}")
    plain = open_source(f"{folder}/")
    assert plain.uri == named.uri == f"lerobot://{folder}?camera={CAMERA}"


@pytest.mark.parametrize("name", ["what?x=1", "a?camera=b", "feature%2Fx"])
def test_a_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    folder = write_lerobot_dataset(tmp_path / name)
    named = open_source(f"lerobot://{folder}?camera={CAMERA}")
    plain = open_source(str(folder))
    assert plain.uri == named.uri == f"lerobot://{folder}?camera={CAMERA}"
    assert _clips(plain.uri)


def test_what_the_folder_has_not_is_left_out(tmp_path: Path) -> None:
    clip = _clips(write_lerobot_dataset(tmp_path, without=("observation.state",)))[0]
    assert set(clip.extras) == {"json", "actions.npy"}


def _column(folder: Path, name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    table = pq.read_table(folder / TABLE)
    at = table.column_names.index(name)
    write_parquet(
        folder / TABLE, table.set_column(at, name, pa.array(change(table[name].to_pylist())))
    )


def test_what_cannot_be_used_says_why_and_costs_its_episode_only(tmp_path: Path) -> None:
    nan = write_lerobot_dataset(tmp_path / "nan")
    _column(nan, "action", lambda rows: [*rows[:14], [1.0, float("nan")], *rows[15:]])
    assert _reasons(nan) == {"1": "'action': not a finite number in row 2"}
    ragged = write_lerobot_dataset(tmp_path / "ragged")
    _column(ragged, "observation.state", lambda rows: [[1.0], *rows[1:]])
    assert _reasons(ragged) == {"0": "'observation.state': not lists of numbers of one length"}
    fewer = write_lerobot_dataset(tmp_path / "fewer")
    write_parquet(fewer / TABLE, pq.read_table(fewer / TABLE).slice(3))
    assert _reasons(fewer) == {"0": "9 rows in the table, 12 in the episode"}
    slow = write_lerobot_dataset(tmp_path / "slow")
    _column(slow, "timestamp", lambda rows: [2 * t for t in rows])
    assert set(_reasons(slow).values()) == {"the table's times are not 10 rows a second"}
    longer = write_lerobot_dataset(tmp_path / "longer", frames=[12, 9, 17])
    assert _reasons(longer) == {"2": "17 frames in the video, 15 rows"}
    single = write_lerobot_dataset(tmp_path / "single", [1, 9])
    assert _reasons(single) == {"0": "one row is not a video"}


def test_another_rate_a_missing_or_damaged_file(tmp_path: Path) -> None:
    rate = write_lerobot_dataset(tmp_path / "rate", video_fps=30)
    assert set(_reasons(rate).values()) == {"the video has 30 frames a second, not 10"}
    gone = write_lerobot_dataset(tmp_path / "gone")
    (gone / VIDEO).unlink()
    assert _reasons(gone) == dict.fromkeys(("0", "1"), f"{VIDEO}: no such file")
    table = write_lerobot_dataset(tmp_path / "table")
    (table / TABLE).unlink()
    assert _reasons(table) == dict.fromkeys(("0", "1"), f"{TABLE}: no such file")
    broken = write_lerobot_dataset(tmp_path / "broken")
    (broken / TABLE).write_bytes(b"no table")
    assert {reason.partition(":")[0] for reason in _reasons(broken).values()} == {TABLE}
    cut = write_lerobot_dataset(tmp_path / "cut")
    (cut / VIDEO).write_bytes((cut / VIDEO).read_bytes()[:-200])
    assert set(_reasons(cut)) == {"0", "1"}


def test_a_file_that_changes_after_it_was_listed_is_not_used(tmp_path: Path) -> None:
    source = open_source(str(write_lerobot_dataset(tmp_path)))
    assert isinstance(source, LeRobotSource)
    (unit,) = source.units()
    _column(tmp_path, "action", lambda rows: rows[::-1])
    clips = list(source.clips(unit, TranscodeConfig()))
    changed = [isinstance(c, Rejected) and c.reason == CHANGED_WHILE_PACKING for c in clips]
    assert changed == [True, True, False]


@pytest.mark.parametrize(
    ("version", "says"),
    [("v2.1", "convert_dataset_v21_to_v30"), ("v2.0", "only v3"), ("v4.0", "only v3")],
)
def test_other_versions_are_refused_by_name(tmp_path: Path, version: str, says: str) -> None:
    write_lerobot_dataset(tmp_path, version=version)
    with pytest.raises(RequestError, match=says) as raised:
        open_source(str(tmp_path))
    assert version in raised.value.what


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not a LeRobot folder"):
        open_source(f"lerobot://{tmp_path}")
    folder = write_lerobot_dataset(tmp_path / "robot", without=(CAMERA,))
    with pytest.raises(RequestError, match="no camera is stored as video"):
        open_source(str(folder))
    listed = write_lerobot_dataset(tmp_path / "listed") / "meta/episodes/chunk-000/file-000.parquet"
    source = open_source(str(tmp_path / "listed"))
    assert isinstance(source, LeRobotSource)
    table = pq.read_table(listed)
    write_parquet(listed, table.drop_columns([f"videos/{CAMERA}/from_timestamp"]))
    with pytest.raises(RequestError, match=f"no column 'videos/{CAMERA}/from_timestamp'"):
        source.units()
    listed.unlink()
    with pytest.raises(RequestError, match="no table of episodes"):
        source.units()
