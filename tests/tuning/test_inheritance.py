"""A child of a population goes on from its parent's weights, and from nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.job import TuneJob
from orchestrator.job.loading.search_space import trial_name
from orchestrator.storage import Storage
from orchestrator.training.audit import audit_run
from orchestrator.training.checkpoints.manager import list_complete_checkpoints
from orchestrator.training.engine.tensor_slices import SliceReader
from orchestrator.tuning.pbt_exploit import Child
from orchestrator.tuning.pbt_fork import create_children, weights_digest
from orchestrator.tuning.trial_store import TrialStore
from tests.support.sweeps import TRAIN_SECTION, make_trial, tune_job


def state_of(job: TuneJob, number: int, step: int) -> dict[str, torch.Tensor]:
    """Student, moments and teacher of a run's checkpoint."""
    folder = Storage(job.storage).subfolder("runs", trial_name(job, number), "checkpoints")
    name = f"step-{step:08d}"
    assert name in list_complete_checkpoints(folder)
    files = [f.path for f in folder.files(name) if f.path.endswith(".safetensors")]
    reader = SliceReader(folder, files)
    return {f"{kind}/{tensor}": reader.read_tensor(kind, tensor) for kind, tensor in reader.shapes}


@pytest.mark.integration
@pytest.mark.parametrize("stage", [1, 3])
def test_a_child_with_its_parents_values_comes_to_its_parents_end(
    tmp_path: Path, stage: int
) -> None:
    torch.set_num_threads(1)
    job = tune_job(
        tmp_path,
        f"train.scale.zero={stage}",
        train=TRAIN_SECTION | {"checkpoint": {"every": 1000, "keep_last": 9}},
        scheduler="pbt",
        trials=4,
        budget=20,
    )
    storage, folder = Storage(job.storage), Storage(job.storage).subfolder("sweeps", job.name)
    ledger = TrialStore(folder)
    point = {"optim.lr": 1e-3, "objective.ema": 0.99}
    parent = make_trial(job, 0, point)
    loser = make_trial(job, 1, {"optim.lr": 1e-4, "objective.ema": 0.9})
    assert parent.train_to_next_rung().steps == loser.train_to_next_rung().steps == 2
    children: list[Child] = [
        {"number": 4, "parent": 0, "replaces": 1, "steps": 2, "point": point},
        {"number": 5, "parent": 0, "replaces": 2, "steps": 2, "point": point | {"optim.lr": 5e-3}},
    ]
    make_trial(job, 2, point)
    create_children(job, storage, ledger, children)

    born = ledger.read(4)
    assert born is not None
    checkpoints = storage.subfolder("runs", trial_name(job, 0), "checkpoints")
    assert born.inherited["sha256"] == weights_digest(checkpoints, "step-00000002")
    mine, parents = state_of(job, 4, 2), state_of(job, 0, 2)
    assert {key.split("/")[0] for key in mine} >= {"student", "teacher", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(mine[key], parents[key]) for key in parents)

    same, other = make_trial(job, 4, point), make_trial(job, 5, point)
    ends = [trial.train_to_next_rung() for trial in (parent, same, other)]
    assert [end.steps for end in ends] == [4, 4, 4]
    alone, child, moved = (state_of(job, number, 4) for number in (0, 4, 5))
    assert all(torch.equal(alone[key], child[key]) for key in alone), "step by step the same"
    assert not all(torch.equal(alone[key], moved[key]) for key in alone)
    assert ends[0].objective == ends[1].objective
    audit = audit_run(storage, trial_name(job, 4))
    assert audit.good, "its own steps: what came before is its parent's"
    assert audit.trained == (4 - 2) * job.train.scale.global_batch
    assert ends[1].rungs[0] == parent.ledger.read(0).rungs[0]  # type: ignore[union-attr]
    assert weights_digest(checkpoints, "step-00000002") == born.inherited["sha256"]
