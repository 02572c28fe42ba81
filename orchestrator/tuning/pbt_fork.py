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
from orchestrator.job.search_space import trial_name
from orchestrator.storage import Storage, patiently
from orchestrator.training.checkpoints.manager import COMPLETE, folder_name
from orchestrator.training.run_record import INHERITED
from orchestrator.tuning.pbt_exploit import Child, turn
from orchestrator.tuning.trial_store import Entry, Ledger

TURNS = "turns"


def turns_taken(folder: Storage) -> list[list[Child]]:
    """The children of each turn that was decided, by rung; `folder` is the sweep's."""
    files = patiently(lambda: list(folder.files(TURNS)))
    names = sorted(file.path for file in files if file.path.endswith(".json"))
    return [patiently(folder.read_json, name) for name in names]


def take_turn(
    job: TuneJob, storage: Storage, folder: Storage, entries: Sequence[Entry], rung: int
) -> None:
    """Decide who comes after a rung that every member has reached or ended before, and do it."""
    children = turn(job, entries, rung)
    patiently(folder.write_json, f"{TURNS}/{rung:02d}.json", children)
    carry_out(job, storage, Ledger(folder), children)


def carry_out(job: TuneJob, storage: Storage, ledger: Ledger, children: Sequence[Child]) -> None:
    """Make these children, where they are not made yet, and end those whose places they take."""
    for child in children:
        if ledger.read(child["number"]) is None:
            ledger.write(_born(job, storage, ledger, child))
        loser = ledger.read(child["replaces"])
        assert loser is not None
        if not loser.final:
            ledger.write(replace(loser, state="pruned"))


def _born(job: TuneJob, storage: Storage, ledger: Ledger, child: Child) -> Entry:
    parent = ledger.read(child["parent"])
    assert parent is not None
    number, steps, point = child["number"], child["steps"], child["point"]
    names = trial_name(job, parent.number), trial_name(job, number)
    before = parent.schedule or [{"from": 0, "values": parent.point}]
    return Entry(
        number,
        point,
        rungs=[row for row in parent.rungs if row["steps"] <= steps],
        parent=parent.number,
        replaces=child["replaces"],
        inherited=inherit(storage, *names, steps),
        schedule=[*before, {"from": steps, "values": point}],
    )


def inherit(storage: Storage, parent: str, child: str, steps: int) -> dict[str, Any]:
    """Copy the checkpoint of run `parent` after `steps` steps to run `child`, which has none.

    Returns what was inherited: the checkpoint's path, its steps, and a hash of its weights.
    """
    name = folder_name(steps)
    source, target = f"runs/{parent}/checkpoints/{name}", f"runs/{child}/checkpoints/{name}"
    if not patiently(storage.exists, f"{target}/{COMPLETE}"):
        noted = {"checkpoint": source, "steps": steps}
        patiently(storage.write_json, f"runs/{child}/{INHERITED}", noted)
        files = [file.path for file in patiently(lambda: list(storage.files(source)))]
        for path in sorted(files, key=lambda path: path.endswith(f"/{COMPLETE}")):
            patiently(storage.copy_file, path, target + path[len(source) :])
    digest = weights_digest(storage.sub("runs", child, "checkpoints"), name)
    return {"checkpoint": source, "steps": steps, "sha256": digest}


def weights_digest(checkpoints: Storage, name: str) -> str:
    """sha256 of the files of a checkpoint that hold its tensors, by what COMPLETE says of them
    (a training that resumes compares that with their bytes)."""
    files = patiently(checkpoints.read_json, f"{name}/{COMPLETE}")["files"]
    lines = [
        f"{file} {entry['sha256']}\n"
        for file, entry in sorted(files.items())
        if file.endswith(".safetensors")
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
