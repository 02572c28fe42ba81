"""A checkpoint is complete or does not exist."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from orchestrator.errors import DataError, JobFailed
from orchestrator.job.config.train import Checkpoint as Policy
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.manager import (
    CheckpointManager,
    checkpoint_name,
    read_full_tensors,
)
from orchestrator.training.engine.snapshot import Snapshot
from orchestrator.training.engine.tensor_slices import SliceReader, TensorSlice, write_slices


def a_snapshot(step: int, fill: float = 1.0) -> Snapshot:
    return Snapshot(step, step, [TensorSlice("student", "w", (2, 3), 0, torch.full((6,), fill))])


def alone(folder: Path, **policy: Any) -> CheckpointManager:
    return CheckpointManager(Storage(str(folder)), 0, 1, Policy(**policy))


# -- slices --------------------------------------------------------------------------------


def test_any_cut_reads_what_any_other_cut_wrote(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    draw = np.random.default_rng(0)
    tensors = {f"t{i}": torch.randn(*shape) for i, shape in enumerate([(7,), (5, 9), (3, 2, 11)])}

    def cuts(size: int, parts: int) -> list[tuple[int, int]]:
        points = sorted(draw.integers(0, size + 1, parts - 1).tolist())
        return list(zip([0, *points], [*points, size], strict=True))

    def slices(values: bool) -> list[list[TensorSlice]]:
        ranks: list[list[TensorSlice]] = [[], [], []]
        for name, tensor in tensors.items():
            for rank, (low, high) in zip(ranks, cuts(tensor.numel(), 3), strict=True):
                data = tensor.view(-1)[low:high] if values else torch.empty(high - low)
                rank.append(TensorSlice("student", name, tuple(tensor.shape), low, data))
        return ranks

    paths = []
    for rank, written in enumerate(slices(True)):
        paths.append(f"step/rank-{rank}.safetensors")
        write_slices(storage, paths[-1], written)
    reader = SliceReader(storage, paths)
    for wanted in slices(False):
        reader.read(wanted)
        for piece in wanted:
            flat = tensors[piece.name].view(-1)
            assert torch.equal(piece.data, flat[piece.offset : piece.offset + len(piece.data)])
    assert all(torch.equal(reader.read_tensor("student", n), t) for n, t in tensors.items())


def test_slice_files_are_safetensors_that_others_read(tmp_path: Path) -> None:
    data = torch.randn(6)
    entry = write_slices(
        Storage(str(tmp_path)), "a.safetensors", [TensorSlice("teacher", "w", (4, 5), 7, data)]
    )
    assert torch.equal(load_file(tmp_path / "a.safetensors")["teacher/w"], data)
    assert entry["bytes"] == (tmp_path / "a.safetensors").stat().st_size


def test_a_missing_part_of_a_tensor_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_slices(storage, "a", [TensorSlice("student", "w", (10,), 0, torch.ones(4))])
    with pytest.raises(DataError, match="4 of 10 elements"):
        SliceReader(storage, ["a"]).read_tensor("student", "w")
    with pytest.raises(DataError, match="does not hold this tensor"):
        SliceReader(storage, ["a"]).read([TensorSlice("student", "v", (1,), 0, torch.ones(1))])


# -- committing ------------------------------------------------------------------------------


def test_a_folder_without_complete_is_never_loaded_and_is_removed(tmp_path: Path) -> None:
    checkpoints = alone(tmp_path)
    checkpoints.save(a_snapshot(10), {"position": 80}, {}, wait=True)
    checkpoints.save(a_snapshot(20), {"position": 160}, {}, wait=True)
    (tmp_path / checkpoint_name(20) / "COMPLETE").unlink()
    again = alone(tmp_path)
    assert again.newest() == checkpoint_name(10)
    assert again.remove_incomplete() == [checkpoint_name(20)]
    assert not (tmp_path / checkpoint_name(20)).exists()
    with pytest.raises(DataError, match="not complete"):
        read_full_tensors(Storage(str(tmp_path)), checkpoint_name(20))


def test_rank_zero_commits_only_when_every_rank_is_done(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    first, second = (CheckpointManager(storage, rank, 2, Policy()) for rank in (0, 1))
    part = [TensorSlice("student", "w", (2, 3), 3, torch.zeros(3))]
    first.save(
        Snapshot(5, 5, [TensorSlice("student", "w", (2, 3), 0, torch.ones(3))]),
        {"position": 40},
        {},
    )
    assert second.newest() is None
    assert first.pop_committed() == []
    second.save(Snapshot(5, 5, part), {}, {}, wait=True)
    first.wait()
    assert [name for name, _, _ in first.pop_committed()] == [checkpoint_name(5)]
    assert first.pop_committed() == []
    tensors = read_full_tensors(storage, checkpoint_name(5))
    assert tensors["student/w"].tolist() == [[1, 1, 1], [0, 0, 0]]
    state = json.loads((tmp_path / checkpoint_name(5) / "state.json").read_text())
    assert (state["step"], state["position"], state["layout"]) == (5, 40, 1)


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    checkpoints = alone(tmp_path, keep_last=2, keep_best=1, best="rankme", mode="max")
    for step, score in ((1, 3.0), (2, 9.0), (3, 5.0), (4, 4.0), (5, 2.0)):
        checkpoints.save(a_snapshot(step), {}, {"rankme": score}, wait=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint_name(s) for s in (2, 4, 5)]


def test_a_driver_that_was_overtaken_commits_nothing(tmp_path: Path) -> None:
    def overtaken() -> None:
        raise JobFailed("another driver continues this run")

    checkpoints = CheckpointManager(Storage(str(tmp_path)), 0, 1, Policy(), check_owner=overtaken)
    with pytest.raises(JobFailed, match="another driver"):
        checkpoints.save(a_snapshot(1), {}, {}, wait=True)
    assert checkpoints.complete_names() == []


def test_what_must_come_first_is_there_before_a_checkpoint_counts(tmp_path: Path) -> None:
    checkpoints = alone(tmp_path)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    seen: list[list[str]] = []
    checkpoints.save(
        a_snapshot(1), {}, {}, True, [lambda: seen.append(checkpoints.complete_names())]
    )
    assert seen == [[]]
    with pytest.raises(JobFailed, match="No space left"):
        checkpoints.save(a_snapshot(2), {}, {}, True, [fail])
    assert checkpoints.complete_names() == [checkpoint_name(1)]


def test_a_storage_that_fails_for_a_while_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, left = alone(tmp_path), [3]
    write = Storage.write_json

    def write_json(self: Storage, path: str, value: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(5, "the storage is away")
        write(self, path, value)

    monkeypatch.setattr(Storage, "write_json", write_json)
    monkeypatch.setattr("orchestrator.storage.FIRST_RETRY_DELAY_S", 0.01)
    checkpoints.save(a_snapshot(1), {}, {}, wait=True)
    assert checkpoints.complete_names() == [checkpoint_name(1)]
    assert left == [0]


def test_a_cap_that_holds_no_two_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"max_bytes.*one must stand while the next is written"):
        alone(tmp_path, max_bytes=100).save(a_snapshot(1), {}, {}, wait=True)
    assert alone(tmp_path).complete_names() == [checkpoint_name(1)]


def test_changed_bytes_are_found_by_their_hash(tmp_path: Path) -> None:
    checkpoints = alone(tmp_path)
    checkpoints.save(a_snapshot(1), {}, {}, wait=True)
    file = tmp_path / checkpoint_name(1) / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="other bytes"):
        read_full_tensors(Storage(str(tmp_path)), checkpoint_name(1))


def test_a_write_that_fails_is_an_error_at_the_next_call(tmp_path: Path) -> None:
    blocked = tmp_path / "checkpoints"
    blocked.write_text("a file where the folder should be")
    checkpoints = alone(blocked)
    checkpoints.save(a_snapshot(1), {}, {})
    with pytest.raises(JobFailed, match="could not be written"):
        checkpoints.wait()


def test_a_step_that_is_complete_is_not_written_again(tmp_path: Path) -> None:
    alone(tmp_path).save(a_snapshot(1, 1.0), {}, {}, wait=True)
    alone(tmp_path).save(a_snapshot(1, 2.0), {}, {}, wait=True)
    assert (
        float(read_full_tensors(Storage(str(tmp_path)), checkpoint_name(1))["student/w"][0, 0])
        == 1.0
    )


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URI of an empty bucket of a real S3 server."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="checkpoints")
    yield "s3://checkpoints/run"
    patch.undo()
    server.stop()


@pytest.mark.integration
def test_an_object_store_keeps_commits_and_drops_alike(bucket: str) -> None:
    storage = Storage(bucket)
    checkpoints = CheckpointManager(storage, 0, 1, Policy(keep_last=2))
    assert checkpoints.newest() is None
    for step in (1, 2, 3):
        checkpoints.save(a_snapshot(step, float(step)), {"position": step}, {}, wait=True)
    assert checkpoints.complete_names() == [checkpoint_name(2), checkpoint_name(3)]
    storage.delete(f"{checkpoint_name(3)}/COMPLETE")
    assert CheckpointManager(storage, 0, 1, Policy()).remove_incomplete() == [checkpoint_name(3)]
    assert storage.folders() == [checkpoint_name(2)]
    assert float(read_full_tensors(storage, checkpoint_name(2))["student/w"].sum()) == 12.0
