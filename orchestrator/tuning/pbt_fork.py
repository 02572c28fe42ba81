"""What a turn of a population decided, kept and done: children that begin with their parents'
checkpoints.

`sweeps/NAME/turns/NN.json` holds the children that come after rung NN, written whole before any of
them exists. A child's run begins with its parent's checkpoint: student, moments, teacher and step.
The files are copied as they are, so whatever ZeRO stage and number of workers wrote them, the
child's training resumes from them as from its own. Where a driver is killed in between, all of it
is done again, to the same end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.job import TuneJob
from orchestrator.job.loading.search_space import trial_name
from orchestrator.storage import Storage, with_retries
from orchestrator.training.checkpoints.manager import COMPLETE_FILE, checkpoint_name
from orchestrator.training.run_record import INHERITED_FILE
from orchestrator.tuning.pbt_exploit import Child, exploit
from orchestrator.tuning.trial_store import TrialRecord, TrialStore

GENERATIONS_FOLDER = "turns"


def read_generations(folder: Storage) -> list[list[Child]]:
    """The children of each turn that was decided, by rung; `folder` is the sweep's."""
    files = with_retries(lambda: list(folder.files(GENERATIONS_FOLDER)))
    names = sorted(file.path for file in files if file.path.endswith(".json"))
    return [with_retries(folder.read_json, name) for name in names]


def advance_generation(
    job: TuneJob, storage: Storage, folder: Storage, entries: Sequence[TrialRecord], rung: int
) -> None:
    """Decide who comes after a rung that every member has reached or ended before, and do it."""
    children = exploit(job, entries, rung)
    with_retries(folder.write_json, f"{GENERATIONS_FOLDER}/{rung:02d}.json", children)
    create_children(job, storage, TrialStore(folder), children)


def create_children(
    job: TuneJob, storage: Storage, ledger: TrialStore, children: Sequence[Child]
) -> None:
    """Make these children, where they are not made yet, and end those whose places they take."""
    for child in children:
        if ledger.read(child["number"]) is None:
            ledger.write(_child_record(job, storage, ledger, child))
        loser = ledger.read(child["replaces"])
        assert loser is not None
        if not loser.is_final:
            ledger.write(replace(loser, state="pruned"))


def _child_record(job: TuneJob, storage: Storage, ledger: TrialStore, child: Child) -> TrialRecord:
    parent = ledger.read(child["parent"])
    assert parent is not None
    number, steps, point = child["number"], child["steps"], child["point"]
    names = trial_name(job, parent.number), trial_name(job, number)
    before = parent.schedule or [{"from": 0, "values": parent.point}]
    return TrialRecord(
        number,
        point,
        rungs=[row for row in parent.rungs if row["steps"] <= steps],
        parent=parent.number,
        replaces=child["replaces"],
        inherited=fork_checkpoint(storage, *names, steps),
        schedule=[*before, {"from": steps, "values": point}],
    )


def fork_checkpoint(storage: Storage, parent: str, child: str, steps: int) -> dict[str, Any]:
    """Copy the checkpoint of run `parent` after `steps` steps to run `child`, which has none.

    Returns what was inherited: the checkpoint's path, its steps, and a hash of its weights.
    """
    name = checkpoint_name(steps)
    source, target = f"runs/{parent}/checkpoints/{name}", f"runs/{child}/checkpoints/{name}"
    if not with_retries(storage.exists, f"{target}/{COMPLETE_FILE}"):
        noted = {"checkpoint": source, "steps": steps}
        with_retries(storage.write_json, f"runs/{child}/{INHERITED_FILE}", noted)
        files = [file.path for file in with_retries(lambda: list(storage.files(source)))]
        for path in sorted(files, key=lambda path: path.endswith(f"/{COMPLETE_FILE}")):
            with_retries(storage.copy_file, path, target + path[len(source) :])
    digest = weights_digest(storage.subfolder("runs", child, "checkpoints"), name)
    return {"checkpoint": source, "steps": steps, "sha256": digest}


def weights_digest(checkpoints: Storage, name: str) -> str:
    """sha256 of the files of a checkpoint that hold its tensors, by what COMPLETE says of them
    (a training that resumes compares that with their bytes)."""
    files = with_retries(checkpoints.read_json, f"{name}/{COMPLETE_FILE}")["files"]
    lines = [
        f"{file} {entry['sha256']}\n"
        for file, entry in sorted(files.items())
        if file.endswith(".safetensors")
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
