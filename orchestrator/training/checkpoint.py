"""Checkpoints of layout 1: written in the background, committed by one file, read by any layout.

    step-00001200/rank-00000.safetensors ...   the slices that each rank owns
    step-00001200/rank-00000.DONE ...          size and sha256, once that file is on the disk
    step-00001200/state.json                   step, position, fingerprint, metrics, ...
    step-00001200/COMPLETE                     the hashes of all of them; written last

A folder without COMPLETE is torn and is never read. No collective runs in the background:
rank 0 learns from the storage that the others are done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor

from orchestrator.errors import DataError, JobFailed, OrchestratorError
from orchestrator.job.train import Checkpoint as Policy
from orchestrator.storage import Storage
from orchestrator.training import state as training_state
from orchestrator.training.slices import SliceReader, write_slices
from orchestrator.training.state import Snapshot

if TYPE_CHECKING:
    from orchestrator.training.engine import Engine

LAYOUT = 1
COMPLETE = "COMPLETE"
STATE = "state.json"
POLL_S = 0.2
# The slowest rank may be this much later than rank 0 before the checkpoint is given up.
PATIENCE_S = 1800.0
CHUNK = 16 * 2**20

logger = logging.getLogger(__name__)


def folder_name(step: int) -> str:
    """`step-00001200`."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    """The step of a folder's name."""
    return int(name.removeprefix("step-"))


class Checkpoints:
    """The checkpoints of one run in `storage`. Every rank makes one; rank 0 commits."""

    def __init__(self, storage: Storage, rank: int, world: int, policy: Policy) -> None:
        self.storage, self.rank, self.world, self.policy = storage, rank, world, policy
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saved = -1
        self._committed: list[tuple[str, int, dict[str, float]]] = []

    # -- writing ---------------------------------------------------------------------------

    def save(
        self,
        snapshot: Snapshot,
        state: dict[str, Any],
        metrics: dict[str, float],
        wait: bool = False,
    ) -> None:
        """Write a snapshot in the background; waits for the one before it.

        `state` and `metrics` are those of rank 0. A step that is complete already is left.

        Raises:
            JobFailed: the checkpoint before this one could not be written.
        """
        self.wait()
        name = folder_name(snapshot.step)
        if snapshot.step == self._saved or self.storage.exists(f"{name}/{COMPLETE}"):
            return
        self._saved = snapshot.step
        document = {
            **state,
            "layout": LAYOUT,
            "step": snapshot.step,
            "adam_step": snapshot.adam_step,
            "world": self.world,
            "metrics": metrics,
        }
        self._thread = threading.Thread(
            target=self._write, args=(name, snapshot, document), name="checkpoint", daemon=True
        )
        self._thread.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            JobFailed: what was being written failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if isinstance(error, OrchestratorError):
            raise error
        if error is not None:
            raise JobFailed(
                f"a checkpoint could not be written: {error}",
                where=self.storage.root,
                mend="free some space or mend the access; the checkpoints before it stand",
            ) from error

    def committed(self) -> list[tuple[str, int, dict[str, float]]]:
        """Name, step and metrics of what rank 0 completed since the last call."""
        done, self._committed = self._committed, []
        return done

    def _write(self, name: str, snapshot: Snapshot, document: dict[str, Any]) -> None:
        try:
            file = f"{name}/rank-{self.rank:05d}"
            entry = write_slices(self.storage, f"{file}.safetensors", snapshot.slices)
            self.storage.write_json(f"{file}.DONE", entry)
            if self.rank == 0:
                self._commit(name, document)
        except BaseException as error:  # surfaces on the main thread, at the next call
            self._error = error

    def _commit(self, name: str, document: dict[str, Any]) -> None:
        """Wait for every rank's DONE, then write COMPLETE, then drop what is no longer kept."""
        text = (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
        self.storage.write_bytes(f"{name}/{STATE}", text)
        entry = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        files: dict[str, Any] = {STATE: entry}
        deadline = time.monotonic() + PATIENCE_S
        waiting = [f"rank-{rank:05d}" for rank in range(self.world)]
        while waiting:
            for rank in list(waiting):
                if self.storage.exists(f"{name}/{rank}.DONE"):
                    files[f"{rank}.safetensors"] = self.storage.read_json(f"{name}/{rank}.DONE")
                    waiting.remove(rank)
            if waiting and time.monotonic() > deadline:
                raise JobFailed(
                    f"checkpoint {name} is torn: no word from {', '.join(waiting[:3])}",
                    where=self.storage.uri(name),
                    mend="the checkpoints before it stand; look at those ranks' logs",
                )
            if waiting:
                time.sleep(POLL_S)
        self.storage.write_json(f"{name}/{COMPLETE}", {"layout": LAYOUT, "files": files})
        self._committed.append((name, int(document["step"]), document["metrics"]))
        self._prune()

    def _prune(self) -> None:
        """Keep the newest `keep_last` and the `keep_best` best; COMPLETE goes first."""
        names = self.complete()
        keep = set(names[-self.policy.keep_last :])
        if self.policy.keep_best:
            scores = {}
            for name in names:
                metrics = self.storage.read_json(f"{name}/{STATE}")["metrics"]
                if self.policy.best in metrics:
                    scores[name] = metrics[self.policy.best]
            ranked = sorted(scores, key=lambda n: scores[n], reverse=self.policy.mode == "max")
            keep |= set(ranked[: self.policy.keep_best])
        for name in names:
            if name not in keep:
                self.storage.delete(f"{name}/{COMPLETE}")
                self.storage.delete_tree(name)

    # -- reading ---------------------------------------------------------------------------

    def newest(self) -> str | None:
        """The newest complete checkpoint, or None. Rank 0 removes torn ones and says so."""
        self.wait()
        complete = self.complete()
        if self.rank == 0:
            for name in self.storage.folders():
                if name.startswith("step-") and name not in complete:
                    logger.warning("removed the torn checkpoint %s", self.storage.uri(name))
                    self.storage.delete_tree(name)
        return complete[-1] if complete else None

    def load(self, name: str, engine: Engine) -> dict[str, Any]:
        """Put checkpoint `name` into `engine`, at any world size and ZeRO stage: a collective.

        The ranks share the work of checking the hashes; each reads only what it needs.

        Raises:
            DataError: the checkpoint is damaged, or is another model's.
            JobFailed: DeepSpeed did not take the values.
        """
        files = _files(self.storage, name)
        wrong = _mismatches(self.storage, name, files, self.rank, self.world)
        found: list[list[str]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(found, wrong)
        _refuse(self.storage, name, [file for part in found for file in part])
        state: dict[str, Any] = self.storage.read_json(f"{name}/{STATE}")
        reader = SliceReader(self.storage, _slice_files(name, files))
        training_state.restore(engine, reader, int(state["step"]), int(state["adam_step"]))
        return state

    def complete(self) -> list[str]:
        """Names of the complete checkpoints, oldest first."""
        folders = (name for name in self.storage.folders() if name.startswith("step-"))
        return [name for name in folders if self.storage.exists(f"{name}/{COMPLETE}")]


def export_tensors(storage: Storage, name: str) -> dict[str, Tensor]:
    """Every whole fp32 tensor of a checkpoint's student and teacher; no process group needed.

    Keys are `student/NAME` (as in the objective) and `teacher/NAME` (as in the module that the
    teacher copies).

    Raises:
        DataError: the checkpoint is damaged or not complete.
    """
    files = _files(storage, name)
    _refuse(storage, name, _mismatches(storage, name, files, 0, 1))
    reader = SliceReader(storage, _slice_files(name, files))
    return {
        f"{kind}/{tensor}": reader.tensor(kind, tensor)
        for kind, tensor in reader.shapes
        if kind in ("student", "teacher")
    }


def _files(storage: Storage, name: str) -> dict[str, dict[str, Any]]:
    if not storage.exists(f"{name}/{COMPLETE}"):
        raise DataError(
            "this checkpoint is not complete",
            where=storage.uri(name),
            mend="name one whose folder holds COMPLETE",
        )
    marker = storage.read_json(f"{name}/{COMPLETE}")
    if marker["layout"] > LAYOUT:
        raise DataError(
            f"this checkpoint has layout {marker['layout']}, this version reads up to {LAYOUT}",
            where=storage.uri(name),
            mend="use the version of orchestrator that wrote it, or a newer one",
        )
    files: dict[str, dict[str, Any]] = marker["files"]
    return files


def _slice_files(name: str, files: dict[str, Any]) -> list[str]:
    return [f"{name}/{file}" for file in sorted(files) if file.endswith(".safetensors")]


def _mismatches(
    storage: Storage, name: str, files: dict[str, dict[str, Any]], rank: int, world: int
) -> list[str]:
    """Files of this rank's share whose bytes are not those that COMPLETE names."""
    wrong = []
    for file in sorted(files)[rank::world]:
        digest = hashlib.sha256()
        try:
            with storage.fs.open_input_stream(storage.at(f"{name}/{file}")) as stream:
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
        except FileNotFoundError:
            wrong.append(f"{file} is missing")
            continue
        if digest.hexdigest() != files[file]["sha256"]:
            wrong.append(f"{file} has other bytes than were written")
    return wrong


def _refuse(storage: Storage, name: str, wrong: list[str]) -> None:
    if wrong:
        raise DataError(
            f"the checkpoint is damaged: {'; '.join(wrong[:3])}",
            where=storage.uri(name),
            mend="delete its folder: the run then continues from the checkpoint before it",
        )
