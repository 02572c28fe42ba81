"""Arrays beside a video: what is read, what is refused and with which one reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import pack_source
from orchestrator.data.packing.verify import verify_dataset
from orchestrator.data.sources.tars import TarSource
from orchestrator.data.store.index import DatasetIndex
from orchestrator.data.store.sidecar_arrays import ACTIONS_FILE, STATES_FILE, read_array
from orchestrator.errors import DataError, JobFailed
from orchestrator.job import TranscodeConfig
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support.action_videos import (
    NumberedVideoSource,
    npy,
    numbered_clip,
    pack_numbered_videos,
)
from tests.support.videos import write_tar

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


def spoilt(value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[7, 1] = value
    return rows


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, ROWS)
    return file.getvalue()


UNUSABLE: dict[str, tuple[bytes, str]] = {
    "short": (npy(ROWS[:19]), "has 19 rows, the video 20 frames"),
    "long": (npy(np.concatenate([ROWS, ROWS])), "has 40 rows, the video 20 frames"),
    "nan": (npy(spoilt(np.nan)), "holds NaN or infinity"),
    "inf": (npy(spoilt(np.inf)), "holds NaN or infinity"),
    "overflow": (npy(spoilt(0.0).astype(np.float64) + 1e300), "holds NaN or infinity"),
    "whole": (npy(ROWS.astype(np.int64)), "holds int64, not floats"),
    "flat": (npy(ROWS[:, 0].copy()), "is [20], not [frames, numbers]"),
    "deep": (npy(ROWS[:, :, None]), "is [20, 3, 1], not [frames, numbers]"),
    "empty": (npy(ROWS[:, :0]), "is [20, 0], not [frames, numbers]"),
    "text": (b"0,1,2\n3,4,5\n", "is not a .npy file"),
    "nothing": (b"", "is not a .npy file"),
    "noise": (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(99), "is not a .npy file"),
    "zip": (zipped(), "is not a .npy file"),
    "pickle": (npy(np.array([[None]] * 20), allow_pickle=True), "is pickled"),
    "cut": (npy(ROWS)[:-8], "is truncated or damaged"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_has_one_reason(name: str) -> None:
    body, reason = UNUSABLE[name]
    with pytest.raises(DataError) as error:
        read_array(ACTIONS_FILE, body, 20)
    assert error.value.what.startswith(ACTIONS_FILE)
    assert reason in error.value.what


def test_any_float_any_order_and_states_of_more_dimensions() -> None:
    for array in (ROWS, ROWS.astype(">f8"), np.asfortranarray(ROWS), ROWS.astype(np.float16)):
        np.testing.assert_array_equal(read_array(ACTIONS_FILE, npy(array), 20), ROWS)
    deep = np.arange(20 * 2 * 8, dtype=np.float64).reshape(20, 2, 8)
    np.testing.assert_array_equal(read_array(STATES_FILE, npy(deep), 20), deep.reshape(20, 16))


def test_a_header_is_not_believed() -> None:
    import struct

    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (20, 1000000000000), }\n"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(80)
    with pytest.raises(DataError, match="truncated or damaged"):
        read_array(ACTIONS_FILE, body, 20)


def spoil(video: int, made: dict[str, Any]) -> None:
    """Every video but the first six has actions of its own fault."""
    faults = list(UNUSABLE)
    if video >= 6:
        del made["actions"]
        made["extras"] = {ACTIONS_FILE: UNUSABLE[faults[video - 6]][0]}


def test_packing_quarantines_each_with_its_reason(tmp_path: Path) -> None:
    count = 6 + len(UNUSABLE)
    index = pack_numbered_videos(tmp_path, videos=count, unit=4, change=spoil)
    rows = {row.source: row.reason for row in read_quarantine(Storage(index.uri))}
    assert index.num_clips == 6
    for number, (_, reason) in enumerate(UNUSABLE.values()):
        assert rows[f"made#{6 + number}"].startswith(ACTIONS_FILE)
        assert reason in rows[f"made#{6 + number}"]
    with pytest.raises(JobFailed, match=r"more than bad_limit 0\.01"):
        pack_numbered_videos(
            tmp_path, bad_limit=0.01, tag="strict", videos=count, unit=4, change=spoil
        )


def test_tars_in_place_quarantine_them_too(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for video in range(6 + len(UNUSABLE)):
        one = numbered_clip(video, change=spoil)
        # Beside each other as `tar` sorts them: the actions come before their video.
        members |= {f"a/{one.key}.{name}": one.extras[name] for name in (ACTIONS_FILE,)}
        members |= {f"a/{one.key}.mp4": one.payload}
        members |= {f"a/{one.key}.{STATES_FILE}": one.extras[STATES_FILE]}
    write_tar(tmp_path / "some.tar", members)
    write_tar(
        tmp_path / "more.tar",
        {"b/only.mp4": numbered_clip(0).payload, f"b/only.{STATES_FILE}": b"x"},
    )
    source = TarSource(str(tmp_path))
    datasets = Storage(str(tmp_path / "datasets"))
    index = pack_source(
        source, TranscodeConfig(), datasets, 1.0, progress=SilentProgress(), local=True
    )
    assert index.num_clips == 7  # states alone are of whatever shape
    rows = {row.source: row.reason for row in read_quarantine(Storage(index.uri))}
    for number, (_, reason) in enumerate(UNUSABLE.values()):
        assert reason in rows[f"{tmp_path}/some.tar/a/video-{6 + number:03d}.{ACTIONS_FILE}"]
    clips = [
        row for shard in range(index.num_shards) for row in index.shard_rows(shard).to_pylist()
    ]
    extras = {row["key"]: {e["name"]: e for e in row["extras"]} for row in clips}
    assert extras["a/video-003"][ACTIONS_FILE]["width"] == 3
    assert extras["b/only"][STATES_FILE]["width"] is None


def one_narrow(video: int, made: dict[str, Any]) -> None:
    if video == 3:
        made["actions"] = made["actions"][:, :2]
    if video == 4:
        del made["states"]


def test_a_clip_whose_actions_are_not_like_the_others_is_quarantined(tmp_path: Path) -> None:
    index = pack_numbered_videos(tmp_path, videos=8, unit=2, change=one_narrow)
    assert index.num_clips == 6
    rows = {row.source: row.reason for row in read_quarantine(Storage(index.uri))}
    assert rows == {
        "made#3": "actions.npy has 2 numbers a row, most of the dataset has 3",
        "made#4": "states.npy is missing, most of the dataset has 3",
    }
    assert DatasetIndex.open(index.uri).num_clips == 6
    with pytest.raises(JobFailed, match="of 2 clips are not like the others'"):
        pack_numbered_videos(
            tmp_path, bad_limit=0.1, tag="strict", videos=8, unit=2, change=one_narrow
        )


def test_a_source_without_actions_is_packed_as_before(tmp_path: Path) -> None:
    def alone(video: int, made: dict[str, Any]) -> None:
        del made["actions"]
        made["states"] = made["states"][: 5 + video]

    index = pack_numbered_videos(tmp_path, change=alone)
    assert index.num_clips == NumberedVideoSource()._videos
    assert read_quarantine(Storage(index.uri)) == []


def test_verify_reads_the_arrays_too(tmp_path: Path) -> None:
    index = pack_numbered_videos(tmp_path)
    assert verify_dataset(index, 6) == []
    (place,) = [e for e in index.shard_rows(1).to_pylist()[0]["extras"] if e["name"] == STATES_FILE]
    with open(index.tar_uri(1), "r+b") as tar:
        tar.seek(place["offset"] + place["bytes"] - 2)
        tar.write(b"\x00\x7f")
    index.close()
    (wrong,) = verify_dataset(index, 6)
    assert wrong.startswith("video-002: ")
    assert "sha256 differs" in wrong


def test_a_tar_that_is_cut_inside_an_array_gives_what_came_before(tmp_path: Path) -> None:
    one, two = numbered_clip(0), numbered_clip(1)
    members = {f"{c.key}.{name}": body for c in (one, two)
               for name, body in {"mp4": c.payload, **c.extras}.items()}  # fmt: skip
    tar = write_tar(tmp_path / "cut.tar", members)
    where = tar.read_bytes().rindex(two.extras[ACTIONS_FILE])
    tar.write_bytes(tar.read_bytes()[: where + 200])
    datasets = Storage(str(tmp_path / "datasets"))
    source = TarSource(str(tar))
    index = pack_source(
        source, TranscodeConfig(), datasets, 1.0, progress=SilentProgress(), local=True
    )
    extras = {row["key"]: len(row["extras"]) for row in index.shard_rows(0).to_pylist()}
    assert extras == {one.key: 2, two.key: 0}
    (row,) = read_quarantine(Storage(index.uri))
    assert "the tar is truncated" in row.reason
