"""Frames, states and actions of one clip belong together, whoever reads it and however."""

from __future__ import annotations

import io
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from orchestrator.data.auditing.audit import audit_ledger
from orchestrator.data.auditing.clip_ledger import ClipLedgerWriter, read_clip_ledger
from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.loader.batch import Batch, StepBatch
from orchestrator.data.loader.clip_decoder import TrainDecodeConfig, rows_to_encoded_clips
from orchestrator.data.loader.data_loader import open_data_loader
from orchestrator.data.loader.order import Order
from orchestrator.data.loader.subprocess_decoder import SubprocessDecoder
from orchestrator.data.store.clip_reader import ROW_SCHEMA, ClipLocations, ClipReader
from orchestrator.data.store.index import DatasetIndex
from orchestrator.data.store.index_schema import CLIP_SCHEMA
from orchestrator.data.store.sidecar_arrays import ACTIONS_FILE, ARRAY_FILES
from orchestrator.errors import DataError, JobFailed, RequestError
from orchestrator.estimate import BatchSizes
from orchestrator.job import TrainJob
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.training.resolve.actions import resolve_actions
from tests.support.action_videos import (
    SIDE,
    action_job,
    numbered_frame,
    pack_numbered_videos,
    read_frame_number,
)
from tests.support.clips import FakePrepared

FRAMES, BLOCK, LENGTH = 4, 2, 20


def known(folder: Path, index: DatasetIndex, **data: Any) -> TrainJob:
    """An acting job, completed from the data as a driver does it."""
    job = action_job(index.uri, folder, **data)
    return resolve_actions(job, FakePrepared([index], [None]), SilentProgress(), local=True)  # type: ignore[arg-type]


def fed(
    job: TrainJob, index: DatasetIndex, world: int = 1, start: int = 0
) -> list[list[StepBatch]]:
    """All steps of all ranks, one rank after the other, without Ray."""
    ranks = []
    for rank in range(world):
        feed = open_data_loader(
            job,
            FakePrepared([index], [None]),  # type: ignore[arg-type]
            BatchSizes.from_scale(job.scale, world),
            rank=rank,
            start_step=start,
            threads=2,
            broadcast=None,
        )
        with closing(feed):
            ranks.append(list(feed))
    return ranks


def micro_batches(ranks: list[list[StepBatch]]) -> list[Batch]:
    return [micro for steps in ranks for step in steps for micro in step.micro_batches]


def by_position(ranks: list[list[StepBatch]]) -> dict[int, tuple[torch.Tensor, ...]]:
    """Pixels, actions and states of every real row."""
    out = {}
    for batch in micro_batches(ranks):
        assert batch.actions is not None
        for row, position in enumerate(batch.position.tolist()):
            if position >= 0:
                assert position not in out
                out[position] = (batch.video[row], *(part[row] for part in batch.actions))
    return out


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetIndex]:
    folder = tmp_path_factory.mktemp("acting")
    return folder, pack_numbered_videos(folder)


def test_frames_states_and_actions_are_of_the_same_moments(
    dataset: tuple[Path, DatasetIndex],
) -> None:
    folder, index = dataset
    job = known(folder, index).model_copy(
        update={"optim": action_job("x").optim.model_copy(update={"steps": 60})}
    )
    starts = set()
    for batch in micro_batches(fed(job, index)):
        assert batch.actions is not None
        assert batch.actions.actions.dtype == batch.actions.states.dtype == torch.float32
        assert batch.actions.actions.shape == (2, FRAMES - 1, BLOCK * 3)
        for row, key in enumerate(batch.keys):
            video, actions, states = int(key[-3:]), *(part[row] for part in batch.actions)
            shown = [read_frame_number(frame) for frame in batch.video[row].numpy()]
            first = shown[0]
            starts.add(first)
            assert shown == [first + BLOCK * i for i in range(FRAMES)]
            np.testing.assert_array_equal(states[:, 0], [1000 + f for f in shown])
            np.testing.assert_array_equal(states[:, 1], video)
            for moment, one in enumerate(actions.reshape(FRAMES - 1, BLOCK, 3)):
                for step, action in enumerate(one):
                    f = first + moment * BLOCK + step
                    np.testing.assert_array_equal(
                        action, np.float32([video, f, np.float32(0.1) * f])
                    )
    assert starts == set(range(LENGTH - (FRAMES - 1) * BLOCK))


@pytest.mark.parametrize("world", [2, 3, 5])
def test_every_world_size_and_restart_gives_the_same(
    dataset: tuple[Path, DatasetIndex], world: int
) -> None:
    folder, index = dataset
    job = known(folder, index)
    one, many = by_position(fed(job, index)), by_position(fed(job, index, world))
    assert sorted(one) == sorted(many) == list(range(16))
    late = by_position(fed(job, index, world, start=2))
    assert sorted(late) == list(range(8, 16))
    for position, row in one.items():
        assert all(map(torch.equal, row, many[position]))
        assert position < 8 or all(map(torch.equal, row, late[position]))


def test_a_change_is_that_of_the_states(dataset: tuple[Path, DatasetIndex]) -> None:
    folder, index = dataset
    job = known(folder, index, act={"actions": "change"})
    assert job.data.actions is not None
    assert job.data.actions.action_dim == 3
    for batch in micro_batches(fed(job, index)):
        assert batch.actions is not None
        expected = batch.actions.states[:, 1:] - batch.actions.states[:, :-1]
        assert torch.equal(batch.actions.actions, expected)
        assert torch.all(batch.actions.actions[..., 0] == BLOCK)


def test_the_children_hand_them_back(dataset: tuple[Path, DatasetIndex]) -> None:
    folder, index = dataset
    job = known(folder, index)
    order = Order([index.clips_per_shard], [None], job.seed, job.data.window)
    reader = ClipReader([index], 4, ARRAY_FILES)
    rows = rows_to_encoded_clips(
        reader.read(ClipLocations.from_order(order, np.array([0, 1, -1, 3])))
    )
    here = TrainDecodeConfig.from_job(job).build_decoder(4)
    ours = here.new_buffer()
    expected = here.decode(rows, ours, 0)
    with closing(SubprocessDecoder(TrainDecodeConfig.from_job(job), 4)) as maker:
        theirs = maker.new_buffer()
        found = maker.decode(rows, theirs, 0)
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert [clip.reason for clip in found] == [None] * 4
    for one, other in zip(expected, found, strict=True):
        assert one.actions is not None
        assert other.actions is not None
        assert one.sha256 == other.sha256
        np.testing.assert_array_equal(one.actions.actions, other.actions.actions)
        np.testing.assert_array_equal(one.actions.states, other.actions.states)
    assert not found[2].actions.actions.any()  # type: ignore[union-attr]  # padding


def test_without_act_nothing_more_is_read_or_sent(dataset: tuple[Path, DatasetIndex]) -> None:
    _, index = dataset
    asked: list[tuple[int, int]] = []

    class Counting(DatasetIndex):
        def read_bytes(
            self, shard: int, offset: int, length: int, sha256: str | None = None
        ) -> bytes:
            asked.append((offset, length))
            return super().read_bytes(shard, offset, length, sha256)

    counting = Counting(index.uri, index.digest, index.num_clips, index.seconds, index.num_bytes)
    span = ClipLocations.from_order(Order([index.clips_per_shard], [None], 0, 2), np.arange(3))
    plain = ClipReader([counting], 4).read(span)
    assert plain.schema == ROW_SCHEMA
    acting = ClipReader([counting], 4, ARRAY_FILES).read(span)
    assert plain["payload"].to_pylist() == acting["payload"].to_pylist()
    assert len(asked) == 6  # one read a clip, with its arrays or without
    assert sum(length for _, length in asked[:3]) == sum(map(len, plain["payload"].to_pylist()))


def encoded(codec: str, container: str, ticks: list[int], rate: Fraction, **options: str) -> bytes:
    """A numbered video with such timestamps, in units of one over `rate`."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.codec_context.time_base = 1 / rate
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = tick, 1 / rate
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode())
    return file.getvalue()


NTSC = [1001 * f for f in range(60)]
B_FRAMES = {"bf": "3", "b-pyramid": "normal", "g": "24", "crf": "12"}
VIDEOS: dict[str, tuple[str, str, list[int], Fraction, dict[str, str]]] = {
    "29.97 fps": ("libx264", "mp4", NTSC, Fraction(30000), {"g": "12", "crf": "12"}),
    "B-frames": ("libx264", "mp4", NTSC, Fraction(30000), B_FRAMES),
    "milliseconds": ("libx264", "matroska", [round(f / 0.02997) for f in range(60)],
                     Fraction(1000), B_FRAMES),
    "begins late": ("libx264", "mp4", [90_000 + t for t in NTSC], Fraction(30000), B_FRAMES),
    "uneven": ("libx264", "mp4", [1000 * f + 400 * (f % 3) for f in range(60)], Fraction(30000),
               B_FRAMES),
    "hevc": ("libx265", "mp4", NTSC, Fraction(30000), {"x265-params": "log-level=none", "g": "20"}),
}  # fmt: skip


@pytest.mark.parametrize("name", VIDEOS)
def test_a_frames_number_is_its_row(name: str) -> None:
    *what, options = VIDEOS[name]
    payload = encoded(*what, **options)  # type: ignore[arg-type]
    for first in (0, 1, 7, 23, 24, 41, 59 - 3 * 6):
        numbers = first + np.arange(4, dtype=np.int64) * 6
        frames = decode_clip(payload, numbers, size=SIDE)
        assert [read_frame_number(frame) for frame in frames] == numbers.tolist()


def test_a_frame_that_is_not_there_is_a_failed_clip() -> None:
    payload = encoded(*VIDEOS["B-frames"][:4], **B_FRAMES)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has 60 frames, frame 60 is wanted"):
        decode_clip(payload, np.array([58, 60]), size=SIDE)


def unlike(video: int, made: dict[str, Any]) -> None:
    if video == 1:
        del made["actions"]
    if video == 2:
        made["actions"] = made["actions"][:, :2]
    if video == 3:
        made["states"][5, 0] = np.nan


def aged(index: DatasetIndex) -> DatasetIndex:
    """The dataset as an older release has indexed it: it judged no array and hashed none."""
    file = Path(index.uri, "index.parquet")
    table = pq.read_table(file)
    rows = table.to_pylist()
    for row in rows:
        for extra in row["extras"]:
            del extra["sha256"], extra["width"]
    old = CLIP_SCHEMA.set(12, CLIP_SCHEMA.field(12).with_type(_old_extras()))
    with pq.ParquetWriter(file, old) as writer:
        for shard in dict.fromkeys(row["shard"] for row in rows):
            mine = [row for row in rows if row["shard"] == shard]
            writer.write_table(pa.Table.from_pylist(mine, schema=old))
    return DatasetIndex.open(index.uri)


def _old_extras() -> pa.DataType:
    fields = [("name", pa.string()), ("offset", pa.int64()), ("bytes", pa.int64())]
    return pa.list_(pa.struct(fields))


def test_what_cannot_be_used_is_a_failed_clip_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "orchestrator.data.packing.unit.find_unusable_array", lambda arrays, frames: None
        )
        patch.setattr("orchestrator.data.packing.array_widths.ArrayWidths.num_minority_clips", 0)
        index = aged(pack_numbered_videos(tmp_path, change=unlike))
    job = known(tmp_path, index, bad_limit=1.0)
    reasons: dict[str, str] = {}
    failed = 0
    ledger = ClipLedgerWriter(Storage(str(tmp_path / "ledger")), 0, "0001-0001")
    for step in fed(job, index)[0]:
        for batch in step.micro_batches:
            ledger.append(step.step, batch)
            reasons |= {failure.key: failure.reason for failure in batch.failures}
            assert batch.actions is not None
            for row, weight in enumerate(batch.weight.tolist()):
                assert weight == float(batch.keys[row] not in reasons)
                assert weight or not batch.actions.actions[row].any()
                failed += not weight
    assert reasons == {
        "video-001": "has no actions.npy",
        "video-002": "actions.npy has 2 numbers a row, the job reads 3",
        "video-003": "states.npy holds NaN or infinity",
    }
    assert failed >= 3
    ledger.flush()
    order = Order([index.clips_per_shard], [None], job.seed, job.data.window)
    report = audit_ledger(
        Storage(str(tmp_path / "ledger")), [index], order, 4, 4, arrays=ARRAY_FILES
    )
    assert (report.wrong, report.trained, report.failed) == ([], 16 - failed, failed)

    strict = known(tmp_path, index, bad_limit=0.01)
    with pytest.raises(JobFailed, match=r"actions\.npy|states\.npy"):
        fed(strict, index)


def test_another_rate_is_a_failed_clip(dataset: tuple[Path, DatasetIndex]) -> None:
    folder, index = dataset
    job = known(folder, index)
    act = job.data.actions
    assert act is not None
    for fps, block, reason in (
        (5.0, 3, "2 control steps lead from one to the next of 5 a second, the job reads 3"),
        (4.0, 2, "no whole number of control steps leads from one to the next of 4 a second"),
    ):
        changed = {
            "fps": fps,
            "actions": act.model_copy(update={"frameskip": block}),
            "bad_limit": 1.0,
        }
        other = job.model_copy(update={"data": job.data.model_copy(update=changed)})
        failures = [f for batch in micro_batches(fed(other, index)) for f in batch.failures]
        assert len(failures) == 16
        assert all(reason in failure.reason for failure in failures)


def test_the_ledger_witnesses_the_arrays(tmp_path: Path) -> None:
    """What is changed in a tar is a failed clip, and a forged row of the ledger is found."""
    index = pack_numbered_videos(tmp_path)
    job = known(tmp_path, index, bad_limit=1.0)
    row = index.shard_rows(0).to_pylist()[1]
    (place,) = [e for e in row["extras"] if e["name"] == ACTIONS_FILE]
    with open(index.tar_uri(0), "r+b") as tar:
        tar.seek(place["offset"] + place["bytes"] - 4)
        tar.write(b"\x00\x00\x80\x3f")
    storage = Storage(str(tmp_path / "ledger"))
    ledger, forged = ClipLedgerWriter(storage, 0, "0001-0001"), Storage(str(tmp_path / "forged"))
    other = ClipLedgerWriter(forged, 0, "0001-0001")
    for step in fed(job, index)[0]:
        for batch in step.micro_batches:
            for failure in batch.failures:
                assert failure.key == "video-001"
                assert "is not the clip that was indexed" in failure.reason
            ledger.append(step.step, batch)
            batch.content_hashes = [_payload_hash(index, key) for key in batch.keys]
            other.append(step.step, batch)
    ledger.flush()
    other.flush()
    order = Order([index.clips_per_shard], [None], job.seed, job.data.window)
    report = audit_ledger(storage, [index], order, 4, 4, arrays=ARRAY_FILES)
    assert report.good, report.wrong
    assert report.failed == read_clip_ledger(storage)["key"].to_pylist().count("video-001") > 0
    # Hashes that say nothing of the arrays do not pass for those of what entered the forward.
    assert audit_ledger(forged, [index], order, 4, 4, arrays=ARRAY_FILES).wrongs == report.trained


def _payload_hash(index: DatasetIndex, key: str) -> str:
    rows = [r for s in range(index.num_shards) for r in index.shard_rows(s).to_pylist()]
    return str(next(row["sha256"] for row in rows if row["key"] == key))


def test_a_job_that_was_not_completed_is_refused(dataset: tuple[Path, DatasetIndex]) -> None:
    _, index = dataset
    with pytest.raises(RequestError, match="not known yet"):
        fed(action_job(index.uri), index)
