"""A checkpoint of an engine loads at any world size and stage, or is refused by every rank."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.errors import DataError
from orchestrator.job.config.train import Checkpoint as Policy
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.manager import CheckpointManager, checkpoint_name
from orchestrator.training.engine.snapshot import Snapshot
from orchestrator.training.engine.tensor_slices import SliceReader, TensorSlice
from tests.support.ranks import gather_slices, make_engine, run_ranks, tiny_job, train_steps

SAVED, LAST = 6, 10


def save_midway(rank: int, world: int, stage: int, precision: str, root: str) -> dict[str, Any]:
    """Train to SAVED, save, train on to LAST."""
    engine = make_engine(tiny_job(scale={"zero": stage, "precision": precision}), world)
    checkpoints = CheckpointManager(Storage(root), rank, world, Policy())
    train_steps(engine, rank, 0, SAVED)
    checkpoints.save(engine.take_snapshot(), {"position": SAVED * 8}, {"rankme": 1.0})
    losses = train_steps(engine, rank, SAVED, LAST)
    checkpoints.wait()
    return {"losses": losses, "last": engine.take_snapshot().slices}


def continue_from(
    rank: int, world: int, cases: list[tuple[int, str, bool]], root: str
) -> list[dict[str, Any]]:
    """A fresh engine for each (stage, precision, offload): load, then train to LAST."""
    out = []
    for stage, precision, offload in cases:
        scale = {"zero": stage, "precision": precision, "offload": offload}
        engine = make_engine(tiny_job(scale=scale), world)
        state = CheckpointManager(Storage(root), rank, world, Policy()).load(
            checkpoint_name(SAVED), engine
        )
        assert (state["position"], engine.step, engine.adam_step) == (SAVED * 8, SAVED, SAVED)
        losses = train_steps(engine, rank, SAVED, LAST)
        out.append({"losses": losses, "last": engine.take_snapshot().slices})
    return out


def whole_state(ranks: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    slices = [piece for rank in ranks for piece in rank["last"]]
    return {
        f"{kind}/{name}": value
        for kind in ("student", "teacher", "exp_avg", "exp_avg_sq")
        for name, value in gather_slices(slices, kind).items()
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
    checkpoints = CheckpointManager(Storage(root), rank, world, Policy())
    for step in (SAVED, SAVED + 1):
        train_steps(engine, rank, engine.step, step)
        checkpoints.save(engine.take_snapshot(), {"position": step * 8}, {}, wait=True)


def save_again(rank: int, world: int, root: str) -> None:
    """At each stage: load, train nothing, save."""
    for stage in (0, 1, 2, 3):
        engine = make_engine(tiny_job(scale={"zero": stage}), world)
        CheckpointManager(Storage(root), rank, world, Policy()).load(checkpoint_name(SAVED), engine)
        again = CheckpointManager(Storage(f"{root}/again-{stage}"), rank, world, Policy())
        again.save(engine.take_snapshot(), {"position": SAVED * 8}, {}, wait=True)


def everything(
    root: str, name: str = checkpoint_name(SAVED)
) -> tuple[int, dict[Any, torch.Tensor]]:
    """AdamW's step, and every tensor of a checkpoint: student, moments, teacher."""
    storage = Storage(root)
    files = [entry.path for entry in storage.files(name) if entry.path.endswith(".safetensors")]
    reader = SliceReader(storage, files)
    return storage.read_json(f"{name}/state.json")["adam_step"], {
        key: reader.read_tensor(*key) for key in reader.shapes
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
    _, later = everything(root, checkpoint_name(SAVED + 1))
    for (kind, name), teacher in want.items():
        if kind == "teacher":
            student = later["student", f"encoder.{name}"].double()
            rule = 0.99 * teacher.double() + 0.01 * student
            assert torch.allclose(later["teacher", name].double(), rule, rtol=1e-6, atol=1e-8), name


def load_damaged(rank: int, world: int, root: str) -> str:
    engine = make_engine(tiny_job(scale={"zero": 1}), world)
    try:
        CheckpointManager(Storage(root), rank, world, Policy()).load(checkpoint_name(SAVED), engine)
    except DataError as error:
        return str(error)
    return "loaded"


@pytest.mark.integration
def test_every_rank_refuses_a_damaged_checkpoint(tmp_path: Path) -> None:
    run_ranks(1, save_midway, 0, "fp32", str(tmp_path))
    file = tmp_path / checkpoint_name(SAVED) / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    answers = run_ranks(2, load_damaged, str(tmp_path))
    assert all("other bytes" in answer for answer in answers)
    assert all("no older checkpoint is whole" in answer for answer in answers)
    # The damaged one keeps standing in the way: what is older is offered, never taken in silence.
    older = tmp_path / checkpoint_name(SAVED - 1)
    piece = TensorSlice("student", "w", (2, 3), 0, torch.ones(6))
    whole_one = CheckpointManager(Storage(str(tmp_path)), 0, 1, Policy())
    whole_one.save(Snapshot(SAVED - 1, SAVED - 1, [piece]), {}, {}, wait=True)
    assert older.exists()
    answers = run_ranks(2, load_damaged, str(tmp_path))
    assert all(f"{checkpoint_name(SAVED - 1)} is whole" in answer for answer in answers)


@pytest.mark.integration
def test_a_pickle_in_place_of_safetensors_is_refused_even_with_its_hash(tmp_path: Path) -> None:
    run_ranks(1, save_two, 0, str(tmp_path))
    folder = tmp_path / checkpoint_name(SAVED + 1)
    file, marker = folder / "rank-00000.safetensors", folder / "COMPLETE"
    file.write_bytes(pickle.dumps({"weight": [0.0] * 1000}))
    known = json.loads(marker.read_text())
    known["files"][file.name]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    marker.write_text(json.dumps(known))
    (answer,) = run_ranks(1, load_newest, str(tmp_path))
    assert file.name in answer
    assert "no safetensors file" in answer
    assert f"{checkpoint_name(SAVED)} is whole" in answer


def load_newest(rank: int, world: int, root: str) -> str:
    engine = make_engine(tiny_job(scale={"zero": 1}), world)
    checkpoints = CheckpointManager(Storage(root), rank, world, Policy())
    newest = checkpoints.newest()
    assert newest is not None
    try:
        checkpoints.load(newest, engine)
    except DataError as error:
        return str(error)
    return "loaded"
