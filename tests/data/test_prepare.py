"""Preparing a training: every kind of source becomes an index, once, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.data.loader.data_loader import open_data_loader
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.packing.prepare import prepare_data
from orchestrator.errors import DataError, RequestError
from orchestrator.estimate import BatchSizes
from orchestrator.progress import SilentProgress
from tests.support.videos import RecordingProgress, data_job, pack_job, write_tar, write_video


def videos(folder: Path, seconds: list[float]) -> Path:
    for number, length in enumerate(seconds):
        write_video(folder / f"v{number}.mp4", frames=round(20 * length), fps=20)
    return folder


def test_every_kind_of_source_with_weights(tmp_path: Path) -> None:
    folder = videos(tmp_path / "in", [3, 3])
    movie = (folder / "v0.mp4").read_bytes()
    write_tar(tmp_path / "tars/x.tar", {"a.mp4": movie, "b.mp4": movie, "c.mp4": movie})
    (packed,) = run_pack(pack_job(folder, tmp_path / "other"), SilentProgress(), local=True)
    sources = [
        {"uri": str(folder), "weight": 2},
        {"uri": str(tmp_path / "tars"), "weight": 1},
        {"uri": packed.uri, "weight": 1.5},
        {"uri": "physics://mixed?clips=2", "weight": 1},
    ]
    prepared = prepare_data(
        data_job(tmp_path / "out", sources=sources), SilentProgress(), local=True
    )
    assert [index.num_clips for index in prepared.indexes] == [2, 3, 2, 2]
    assert prepared.weights == [2, 1, 1.5, 1]
    assert prepared.indexes[2] == packed
    assert len(prepared.digest) == 16


def test_preparing_again_finds_it_done(tmp_path: Path) -> None:
    job = data_job(tmp_path / "out", source=str(videos(tmp_path / "in", [3])))
    first, told = prepare_data(job, SilentProgress(), local=True), RecordingProgress()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    assert prepare_data(job, told, local=True) == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
    assert told.updates == []


def test_the_digest_is_of_the_clips_and_not_of_their_place(tmp_path: Path) -> None:
    folder = videos(tmp_path / "in", [3])
    one = prepare_data(data_job(tmp_path / "one", source=str(folder)), SilentProgress(), local=True)
    two = prepare_data(data_job(tmp_path / "two", source=str(folder)), SilentProgress(), local=True)
    assert one.digest == two.digest
    videos(tmp_path / "in", [3, 3])
    more = prepare_data(
        data_job(tmp_path / "one", source=str(folder)), SilentProgress(), local=True
    )
    assert more.digest != one.digest


def test_segments_shorter_than_a_clip_are_left_out_and_said(tmp_path: Path) -> None:
    """A clip of 8 frames at 4 a second spans 1.75 s."""
    told = RecordingProgress()
    job = data_job(tmp_path / "out", source=str(videos(tmp_path / "in", [3, 1, 2.5, 1.75])))
    prepared = prepare_data(job, told, local=True)
    (index,) = prepared.indexes
    kept = [row for shard in range(index.num_shards) for row in index.shard_rows(shard).to_pylist()]
    assert [round(row["duration_s"], 2) for row in kept] == [3.0, 2.5]
    assert all(index.read_bytes(0, r["offset"], r["bytes"], r["sha256"]) for r in kept)
    assert "2 of 4 segments" in told.messages[0]
    assert prepare_data(job, SilentProgress(), local=True) == prepared
    assert (
        prepared.digest
        != prepare_data(
            data_job(tmp_path / "out", source=job.data.source, frames=2),
            SilentProgress(),
            local=True,
        ).digest
    )


def test_what_is_prepared_can_be_fed(tmp_path: Path) -> None:
    job = data_job(tmp_path / "out", source=str(videos(tmp_path / "in", [3, 1, 2.5])))
    prepared = prepare_data(job, SilentProgress(), local=True)
    plan = BatchSizes(global_batch=4, world=1, micro=4, accum=1)
    feed = open_data_loader(job, prepared, plan, rank=0, start_step=0, threads=1, broadcast=None)
    try:
        (batch,) = next(iter(feed)).micro_batches
    finally:
        feed.close()
    assert batch.weight.tolist() == [1, 1, 1, 1]
    assert batch.failures == []


def test_a_clip_longer_than_every_video_names_the_longest(tmp_path: Path) -> None:
    folder = videos(tmp_path / "in", [1, 3, 2])
    job = data_job(tmp_path / "out", source=str(folder), frames=16)
    with pytest.raises(RequestError, match=r"spans 3\.75 s.*longest.*lasts 3\.00 s"):
        prepare_data(job, SilentProgress(), local=True)


def test_segments_that_can_hold_no_clip_are_refused_before_packing(tmp_path: Path) -> None:
    folder = videos(tmp_path / "in", [3])
    job = data_job(tmp_path / "out", source=str(folder), frames=64)
    with pytest.raises(RequestError, match=r"spans 15\.75 s.*at most 10 s") as caught:
        prepare_data(job, SilentProgress(), local=True)
    assert caught.value.hint == "set data.encode.segment=63"
    assert not (tmp_path / "out").exists()


def test_a_dataset_whose_tars_are_gone_or_changed_is_refused(tmp_path: Path) -> None:
    folder = videos(tmp_path / "in", [3])
    (packed,) = run_pack(pack_job(folder, tmp_path / "other"), SilentProgress(), local=True)
    job = data_job(tmp_path / "out", source=packed.uri)
    (tar,) = Path(packed.uri).glob("*.tar")
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(DataError, match="does not match its tars"):
        prepare_data(job, SilentProgress(), local=True)
    tar.unlink()
    with pytest.raises(DataError, match="is missing"):
        prepare_data(job, SilentProgress(), local=True)


def test_quarantined_inputs_are_counted(tmp_path: Path) -> None:
    folder = videos(tmp_path / "in", [3])
    (folder / "bad.mp4").write_bytes(b"?" * 100)
    job = data_job(tmp_path / "out", source=str(folder), bad_limit=0.5)
    assert prepare_data(job, SilentProgress(), local=True).quarantined == 1
    assert prepare_data(job, SilentProgress(), local=True).quarantined == 1
