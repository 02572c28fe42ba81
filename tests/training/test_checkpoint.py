"""A checkpoint is complete or does not exist, and loads at any world size and stage."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import make_engine, run_ranks, tiny_job, train, whole
from safetensors.torch import load_file

from orchestrator.errors import DataError, JobFailed
from orchestrator.job.train import Checkpoint as Policy
from orchestrator.storage import Storage
from orchestrator.training.checkpoint import Checkpoints, export_tensors, folder_name
from orchestrator.training.slices import Slice, SliceReader, write_slices
from orchestrator.training.state import Snapshot

SAVED, LAST = 6, 10


def a_snapshot(step: int, fill: float = 1.0) -> Snapshot:
    return Snapshot(step, step, [Slice("student", "w", (2, 3), 0, torch.full((6,), fill))])


def alone(folder: Path, **policy: Any) -> Checkpoints:
    return Checkpoints(Storage(str(folder)), 0, 1, Policy(**policy))


# -- slices --------------------------------------------------------------------------------


def test_any_cut_reads_what_any_other_cut_wrote(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    draw = np.random.default_rng(0)
    tensors = {f"t{i}": torch.randn(*shape) for i, shape in enumerate([(7,), (5, 9), (3, 2, 11)])}

    def cuts(size: int, parts: int) -> list[tuple[int, int]]:
        points = sorted(draw.integers(0, size + 1, parts - 1).tolist())
        return list(zip([0, *points], [*points, size], strict=True))

    def slices(values: bool) -> list[list[Slice]]:
        ranks: list[list[Slice]] = [[], [], []]
        for name, tensor in tensors.items():
            for rank, (low, high) in zip(ranks, cuts(tensor.numel(), 3), strict=True):
                data = tensor.view(-1)[low:high] if values else torch.empty(high - low)
                rank.append(Slice("student", name, tuple(tensor.shape), low, data))
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
    assert all(torch.equal(reader.tensor("student", n), t) for n, t in tensors.items())


def test_slice_files_are_safetensors_that_others_read(tmp_path: Path) -> None:
    data = torch.randn(6)
    entry = write_slices(
        Storage(str(tmp_path)), "a.safetensors", [Slice("teacher", "w", (4, 5), 7, data)]
    )
    assert torch.equal(load_file(tmp_path / "a.safetensors")["teacher/w"], data)
    assert entry["bytes"] == (tmp_path / "a.safetensors").stat().st_size


def test_a_missing_part_of_a_tensor_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_slices(storage, "a", [Slice("student", "w", (10,), 0, torch.ones(4))])
    with pytest.raises(DataError, match="4 of 10 elements"):
        SliceReader(storage, ["a"]).tensor("student", "w")
    with pytest.raises(DataError, match="does not hold this tensor"):
        SliceReader(storage, ["a"]).read([Slice("student", "v", (1,), 0, torch.ones(1))])


# -- committing ------------------------------------------------------------------------------


def test_a_folder_without_complete_is_never_loaded_and_is_removed(tmp_path: Path) -> None:
    checkpoints = alone(tmp_path)
    checkpoints.save(a_snapshot(10), {"position": 80}, {}, wait=True)
    checkpoints.save(a_snapshot(20), {"position": 160}, {}, wait=True)
    (tmp_path / folder_name(20) / "COMPLETE").unlink()
    again = alone(tmp_path)
    assert again.newest() == folder_name(10)
    assert again.remove_torn() == [folder_name(20)]
    assert not (tmp_path / folder_name(20)).exists()
    with pytest.raises(DataError, match="not complete"):
        export_tensors(Storage(str(tmp_path)), folder_name(20))


def test_rank_zero_commits_only_when_every_rank_is_done(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    first, second = (Checkpoints(storage, rank, 2, Policy()) for rank in (0, 1))
    part = [Slice("student", "w", (2, 3), 3, torch.zeros(3))]
    first.save(
        Snapshot(5, 5, [Slice("student", "w", (2, 3), 0, torch.ones(3))]), {"position": 40}, {}
    )
    assert second.newest() is None
    assert first.committed() == []
    second.save(Snapshot(5, 5, part), {}, {}, wait=True)
    first.wait()
    assert [name for name, _, _ in first.committed()] == [folder_name(5)]
    assert first.committed() == []
    tensors = export_tensors(storage, folder_name(5))
    assert tensors["student/w"].tolist() == [[1, 1, 1], [0, 0, 0]]
    state = json.loads((tmp_path / folder_name(5) / "state.json").read_text())
    assert (state["step"], state["position"], state["layout"]) == (5, 40, 1)


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    checkpoints = alone(tmp_path, keep_last=2, keep_best=1, best="rankme", mode="max")
    for step, score in ((1, 3.0), (2, 9.0), (3, 5.0), (4, 4.0), (5, 2.0)):
        checkpoints.save(a_snapshot(step), {}, {"rankme": score}, wait=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [folder_name(s) for s in (2, 4, 5)]


def test_a_driver_that_was_overtaken_commits_nothing(tmp_path: Path) -> None:
    def overtaken() -> None:
        raise JobFailed("another driver continues this run")

    checkpoints = Checkpoints(Storage(str(tmp_path)), 0, 1, Policy(), fence=overtaken)
    with pytest.raises(JobFailed, match="another driver"):
        checkpoints.save(a_snapshot(1), {}, {}, wait=True)
    assert checkpoints.complete() == []


def test_what_must_come_first_is_there_before_a_checkpoint_counts(tmp_path: Path) -> None:
    checkpoints = alone(tmp_path)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    seen: list[list[str]] = []
    checkpoints.save(a_snapshot(1), {}, {}, True, [lambda: seen.append(checkpoints.complete())])
    assert seen == [[]]
    with pytest.raises(JobFailed, match="No space left"):
        checkpoints.save(a_snapshot(2), {}, {}, True, [fail])
    assert checkpoints.complete() == [folder_name(1)]


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
    monkeypatch.setattr("orchestrator.storage.FIRST_PAUSE_S", 0.01)
    checkpoints.save(a_snapshot(1), {}, {}, wait=True)
    assert checkpoints.complete() == [folder_name(1)]
    assert left == [0]


def test_a_cap_that_holds_no_two_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"max_bytes.*one must stand while the next is written"):
        alone(tmp_path, max_bytes=100).save(a_snapshot(1), {}, {}, wait=True)
    assert alone(tmp_path).complete() == [folder_name(1)]


def test_changed_bytes_are_found_by_their_hash(tmp_path: Path) -> None:
    checkpoints = alone(tmp_path)
    checkpoints.save(a_snapshot(1), {}, {}, wait=True)
    file = tmp_path / folder_name(1) / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="other bytes"):
        export_tensors(Storage(str(tmp_path)), folder_name(1))


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
    assert float(export_tensors(Storage(str(tmp_path)), folder_name(1))["student/w"][0, 0]) == 1.0


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
    checkpoints = Checkpoints(storage, 0, 1, Policy(keep_last=2))
    assert checkpoints.newest() is None
    for step in (1, 2, 3):
        checkpoints.save(a_snapshot(step, float(step)), {"position": step}, {}, wait=True)
    assert checkpoints.complete() == [folder_name(2), folder_name(3)]
    storage.delete(f"{folder_name(3)}/COMPLETE")
    assert Checkpoints(storage, 0, 1, Policy()).remove_torn() == [folder_name(3)]
    assert storage.folders() == [folder_name(2)]
    assert float(export_tensors(storage, folder_name(2))["student/w"].sum()) == 12.0


# -- through the engine ------------------------------------------------------------------------


def save_midway(rank: int, world: int, stage: int, precision: str, root: str) -> dict[str, Any]:
    """Train to SAVED, save, train on to LAST."""
    engine = make_engine(tiny_job(scale={"zero": stage, "precision": precision}), world)
    checkpoints = Checkpoints(Storage(root), rank, world, Policy())
    train(engine, rank, 0, SAVED)
    checkpoints.save(engine.snapshot(), {"position": SAVED * 8}, {"rankme": 1.0})
    losses = train(engine, rank, SAVED, LAST)
    checkpoints.wait()
    return {"losses": losses, "last": engine.snapshot().slices}


def continue_from(
    rank: int, world: int, cases: list[tuple[int, str, bool]], root: str
) -> list[dict[str, Any]]:
    """A fresh engine for each (stage, precision, offload): load, then train to LAST."""
    out = []
    for stage, precision, offload in cases:
        scale = {"zero": stage, "precision": precision, "offload": offload}
        engine = make_engine(tiny_job(scale=scale), world)
        state = Checkpoints(Storage(root), rank, world, Policy()).load(folder_name(SAVED), engine)
        assert (state["position"], engine.step, engine.adam_step) == (SAVED * 8, SAVED, SAVED)
        losses = train(engine, rank, SAVED, LAST)
        out.append({"losses": losses, "last": engine.snapshot().slices})
    return out


def whole_state(ranks: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    slices = [piece for rank in ranks for piece in rank["last"]]
    return {
        f"{kind}/{name}": value
        for kind in ("student", "teacher", "exp_avg", "exp_avg_sq")
        for name, value in whole(slices, kind).items()
    }


@pytest.mark.integration
@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "fp32")]
)
def test_continues_to_the_bit_at_the_same_world_size_and_stage(
    tmp_path: Path, stage: int, precision: str
) -> None:
    before = run_ranks(2, save_midway, stage, precision, str(tmp_path))
    after = [r[0] for r in run_ranks(2, continue_from, [(stage, precision, False)], str(tmp_path))]
    assert [r["losses"] for r in after] == [r["losses"] for r in before]
    want, found = whole_state(before), whole_state(after)
    assert all(torch.equal(found[key], value) for key, value in want.items())


@pytest.mark.integration
def test_continues_at_any_other_world_size_and_stage(tmp_path: Path) -> None:
    before = run_ranks(2, save_midway, 2, "fp32", str(tmp_path))
    want = whole_state(before)
    cases = [(0, "fp32", False), (1, "fp32", False), (2, "fp32", True), (3, "fp32", False)]
    for world in (1, 3):
        ranks = run_ranks(world, continue_from, cases, str(tmp_path))
        for index, case in enumerate(cases):
            after = [rank[index] for rank in ranks]
            assert after[0]["losses"] == pytest.approx(before[0]["losses"], abs=1e-6), case
            found = whole_state(after)
            assert found.keys() == want.keys()
            error = sum(float((found[k] - v).square().sum()) for k, v in want.items()) ** 0.5
            norm = sum(float(v.square().sum()) for v in want.values()) ** 0.5
            assert error < 1e-6 * norm, case


def save_two(rank: int, world: int, stage: int, root: str) -> None:
    """Checkpoints of two steps, one after the other."""
    engine = make_engine(tiny_job(scale={"zero": stage}), world)
    checkpoints = Checkpoints(Storage(root), rank, world, Policy())
    for step in (SAVED, SAVED + 1):
        train(engine, rank, engine.step, step)
        checkpoints.save(engine.snapshot(), {"position": step * 8}, {}, wait=True)


def save_again(rank: int, world: int, root: str) -> None:
    """At each stage: load, train nothing, save."""
    for stage in (0, 1, 2, 3):
        engine = make_engine(tiny_job(scale={"zero": stage}), world)
        Checkpoints(Storage(root), rank, world, Policy()).load(folder_name(SAVED), engine)
        again = Checkpoints(Storage(f"{root}/again-{stage}"), rank, world, Policy())
        again.save(engine.snapshot(), {"position": SAVED * 8}, {}, wait=True)


def everything(root: str, name: str = folder_name(SAVED)) -> tuple[int, dict[Any, torch.Tensor]]:
    """AdamW's step, and every tensor of a checkpoint: student, moments, teacher."""
    storage = Storage(root)
    files = [entry.path for entry in storage.files(name) if entry.path.endswith(".safetensors")]
    reader = SliceReader(storage, files)
    return storage.read_json(f"{name}/state.json")["adam_step"], {
        key: reader.tensor(*key) for key in reader.shapes
    }


@pytest.mark.integration
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resuming_elsewhere_and_saving_again_changes_nothing(tmp_path: Path, stage: int) -> None:
    root = str(tmp_path)
    run_ranks(2, save_two, stage, root)
    step, want = everything(root)
    assert {kind for kind, _ in want} == {"student", "teacher", "exp_avg", "exp_avg_sq"}
    run_ranks(3, save_again, root)
    for other in (0, 1, 2, 3):
        found_step, found = everything(f"{root}/again-{other}")
        assert (found_step, found.keys()) == (step, want.keys())
        assert all(torch.equal(found[key], value) for key, value in want.items()), other

    # The teacher's rule, from the files alone: T' = m T + (1 - m) S'.
    _, later = everything(root, folder_name(SAVED + 1))
    for (kind, name), teacher in want.items():
        if kind == "teacher":
            student = later["student", f"encoder.{name}"].double()
            rule = 0.99 * teacher.double() + 0.01 * student
            assert torch.allclose(later["teacher", name].double(), rule, rtol=1e-6, atol=1e-8), name


def load_damaged(rank: int, world: int, root: str) -> str:
    engine = make_engine(tiny_job(scale={"zero": 1}), world)
    try:
        Checkpoints(Storage(root), rank, world, Policy()).load(folder_name(SAVED), engine)
    except DataError as error:
        return str(error)
    return "loaded"


@pytest.mark.integration
def test_every_rank_refuses_a_damaged_checkpoint(tmp_path: Path) -> None:
    run_ranks(1, save_midway, 0, "fp32", str(tmp_path))
    file = tmp_path / folder_name(SAVED) / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    answers = run_ranks(2, load_damaged, str(tmp_path))
    assert all("other bytes" in answer for answer in answers)
    assert all("no older checkpoint is whole" in answer for answer in answers)
    # The damaged one keeps standing in the way: what is older is offered, never taken in silence.
    older = tmp_path / folder_name(SAVED - 1)
    alone(tmp_path).save(a_snapshot(SAVED - 1), {}, {}, wait=True)
    assert older.exists()
    answers = run_ranks(2, load_damaged, str(tmp_path))
    assert all(f"{folder_name(SAVED - 1)} is whole" in answer for answer in answers)


@pytest.mark.integration
def test_a_pickle_in_place_of_safetensors_is_refused_even_with_its_hash(tmp_path: Path) -> None:
    run_ranks(1, save_two, 0, str(tmp_path))
    folder = tmp_path / folder_name(SAVED + 1)
    file, marker = folder / "rank-00000.safetensors", folder / "COMPLETE"
    file.write_bytes(pickle.dumps({"weight": [0.0] * 1000}))
    known = json.loads(marker.read_text())
    known["files"][file.name]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    marker.write_text(json.dumps(known))
    (answer,) = run_ranks(1, load_newest, str(tmp_path))
    assert file.name in answer
    assert "no safetensors file" in answer
    assert f"{folder_name(SAVED)} is whole" in answer


def load_newest(rank: int, world: int, root: str) -> str:
    engine = make_engine(tiny_job(scale={"zero": 1}), world)
    checkpoints = Checkpoints(Storage(root), rank, world, Policy())
    newest = checkpoints.newest()
    assert newest is not None
    try:
        checkpoints.load(newest, engine)
    except DataError as error:
        return str(error)
    return "loaded"
