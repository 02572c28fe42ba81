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
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor

from orchestrator.errors import DataError, JobFailed, OrchestratorError
from orchestrator.job.config.train import Checkpoint as Policy
from orchestrator.storage import Storage, with_retries
from orchestrator.training.checkpoints.retention import CheckpointEntry, checkpoints_to_delete
from orchestrator.training.engine import snapshot as training_state
from orchestrator.training.engine.snapshot import Snapshot
from orchestrator.training.engine.tensor_slices import SliceReader, write_slices
from orchestrator.training.health import finite_values
from orchestrator.unexpected import format_traceback, one_line

if TYPE_CHECKING:
    from orchestrator.training.engine.engine import Engine

FORMAT_VERSION = 1
COMPLETE_FILE = "COMPLETE"
STATE_FILE = "state.json"
DOCUMENT_KEYS = ("layout", "step", "adam_step", "world", "metrics")
"""Keys of `state.json` that are the checkpoint's own."""

POLL_INTERVAL_S = 0.2
# The slowest rank may be this much later than rank 0 before the checkpoint is given up.
COMMIT_TIMEOUT_S = 1800.0
HASH_CHUNK_BYTES = 16 * 2**20


def checkpoint_name(step: int) -> str:
    """`step-00001200`."""
    return f"step-{step:08d}"


def checkpoint_step(name: str) -> int:
    """The step of a folder's name."""
    return int(name.removeprefix("step-"))


class CheckpointManager:
    """The checkpoints of one run in `storage`. Every rank makes one; rank 0 commits.

    `check_owner` is called before each commit and raises where another driver has taken the run
    over: of two writers only the later one may commit. A checkpoint that `is_protected` is not
    dropped, unless the policy's cap wants it.
    """

    def __init__(
        self,
        storage: Storage,
        rank: int,
        world_size: int,
        policy: Policy,
        check_owner: Callable[[], None] = lambda: None,
        is_protected: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.storage, self.rank, self.world_size, self.policy = storage, rank, world_size, policy
        self._check_owner, self._is_protected = check_owner, is_protected
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
        before_commit: Sequence[Callable[[], None]] = (),
    ) -> None:
        """Write a snapshot in the background; waits for the one before it.

        `state` and `metrics` are those of rank 0. `before_commit` is done before the checkpoint can
        count: what must not be missing once it does. A step that is complete already is left.

        Raises:
            JobFailed: the checkpoint before this one could not be written.
        """
        self.wait()
        name = checkpoint_name(snapshot.step)
        if snapshot.step == self._saved or self.storage.exists(f"{name}/{COMPLETE_FILE}"):
            for write in before_commit:
                write()
            return
        self._saved = snapshot.step
        document = {
            **state,
            "layout": FORMAT_VERSION,
            "step": snapshot.step,
            "adam_step": snapshot.adam_step,
            "world": self.world_size,
            "metrics": metrics,
        }
        self._thread = threading.Thread(
            target=self._write,
            args=(name, snapshot, document, before_commit),
            name="checkpoint",
            daemon=True,
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
            outage = isinstance(error, OSError)
            raise JobFailed(
                f"a checkpoint could not be written: {error if outage else one_line(error)}",
                where=self.storage.root,
                hint="free some space or mend the access; the checkpoints before it stand",
                details="" if outage else format_traceback(error),
            ) from error

    def pop_committed(self) -> list[tuple[str, int, dict[str, float]]]:
        """Name, step and metrics of what rank 0 completed since the last call."""
        done, self._committed = self._committed, []
        return done

    def _write(
        self,
        name: str,
        snapshot: Snapshot,
        document: dict[str, Any],
        first: Sequence[Callable[[], None]],
    ) -> None:
        try:
            for write in first:
                write()
            file = f"{name}/rank-{self.rank:05d}"
            path = f"{file}.safetensors"
            entry = with_retries(write_slices, self.storage, path, snapshot.slices)
            with_retries(self.storage.write_json, f"{file}.DONE", entry)
            if self.rank == 0:
                self._commit(name, document)
        except BaseException as error:  # surfaces on the main thread, at the next call
            self._error = error

    def _commit(self, name: str, document: dict[str, Any]) -> None:
        """Wait for every rank's DONE, then write COMPLETE, then drop what is no longer kept."""
        text = (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
        with_retries(self.storage.write_bytes, f"{name}/{STATE_FILE}", text)
        entry = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        files: dict[str, Any] = {STATE_FILE: entry}
        deadline = time.monotonic() + COMMIT_TIMEOUT_S
        waiting = [f"rank-{rank:05d}" for rank in range(self.world_size)]
        while waiting:
            done = with_retries(self._finished_ranks, name, waiting)
            files |= {f"{rank}.safetensors": entry for rank, entry in done.items()}
            waiting = [rank for rank in waiting if rank not in done]
            if waiting and time.monotonic() > deadline:
                raise JobFailed(
                    f"checkpoint {name} is torn: no word from {', '.join(waiting[:3])}",
                    where=self.storage.uri(name),
                    hint="the checkpoints before it stand; look at those ranks' logs",
                )
            if waiting:
                time.sleep(POLL_INTERVAL_S)
        self._check_owner()
        marker = {"layout": FORMAT_VERSION, "files": files}
        with_retries(self.storage.write_json, f"{name}/{COMPLETE_FILE}", marker)
        self._committed.append((name, int(document["step"]), document["metrics"]))
        with_retries(self._prune)

    def _finished_ranks(self, name: str, ranks: list[str]) -> dict[str, Any]:
        """What the ranks that are done have written."""
        return {
            rank: self.storage.read_json(f"{name}/{rank}.DONE")
            for rank in ranks
            if self.storage.exists(f"{name}/{rank}.DONE")
        }

    def _prune(self) -> None:
        """Drop what the policy does not keep; COMPLETE goes first."""
        there = [self._retention_entry(name) for name in self.complete_names()]
        if self.policy.max_bytes is not None and 2 * there[-1].size_bytes > self.policy.max_bytes:
            raise JobFailed(
                f"a checkpoint takes {there[-1].size_bytes:,} bytes, and"
                f" {self.policy.max_bytes:,} are allowed for all: one must stand while the next is"
                " written",
                where="checkpoint.max_bytes",
                hint="allow twice as much as one takes",
            )
        for name in checkpoints_to_delete(there, self.policy):
            self.storage.delete(f"{name}/{COMPLETE_FILE}")
            self.storage.delete_tree(name)

    def _retention_entry(self, name: str) -> CheckpointEntry:
        size, score = 0, None
        if self.policy.max_bytes is not None:
            size = sum(entry.size for entry in self.storage.files(name))
        if self.policy.keep_best:
            score = self.metrics(name).get(self.policy.best)
        return CheckpointEntry(name, checkpoint_step(name), size, score, self._is_protected(name))

    # -- reading ---------------------------------------------------------------------------

    def newest(self) -> str | None:
        """The newest complete checkpoint, or None."""
        complete = self.complete_names()
        return complete[-1] if complete else None

    def remove_incomplete(self) -> list[str]:
        """Delete what an earlier start did not finish; gives the names. For rank 0, at a start."""
        complete = self.complete_names()
        torn = [n for n in self.storage.folders() if n.startswith("step-") and n not in complete]
        for name in torn:
            self.storage.delete_tree(name)
        return torn

    def load(self, name: str, engine: Engine) -> dict[str, Any]:
        """Put checkpoint `name` into `engine`, at any world size and ZeRO stage: a collective.

        The ranks share the work of checking the hashes; each reads only what it needs.

        Raises:
            DataError: the checkpoint is damaged, or is another model's.
            JobFailed: DeepSpeed did not take the values.
        """
        files = _committed_files(self.storage, name)
        wrong = _mismatches(self.storage, name, files, self.rank, self.world_size)
        found: list[list[str]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(found, wrong)
        damage = [file for part in found for file in part]
        if damage:
            raise self._damage_error(name, damage)
        state: dict[str, Any] = self.storage.read_json(f"{name}/{STATE_FILE}")
        try:
            reader = SliceReader(self.storage, _slice_files(name, files))
        except DataError as error:  # its bytes are those that were written, and are no tensors
            raise self._damage_error(name, [f"{error.where}: {error.what}"]) from error
        training_state.restore_snapshot(engine, reader, int(state["step"]), int(state["adam_step"]))
        return state

    def _damage_error(self, name: str, damage: list[str]) -> DataError:
        """Names what is damaged, and the newest checkpoint that is whole."""
        older = [other for other in reversed(self.complete_names()) if other < name]
        good = next((name for name in older if not _damaged_files(self.storage, name)), None)
        mend = (
            f"{good} is whole: delete the folder above, and the same command continues from it"
            if good
            else "no older checkpoint is whole: start again with --fresh"
        )
        return DataError(
            f"the checkpoint is damaged: {'; '.join(damage[:3])}",
            where=self.storage.uri(name),
            hint=mend,
        )

    def metrics(self, name: str) -> dict[str, float]:
        """What a complete checkpoint scored, as far as it is finite."""
        scores: dict[str, float] = self.storage.read_json(f"{name}/{STATE_FILE}")["metrics"]
        return finite_values(scores)

    def last_metric_row(self, name: str) -> dict[str, float]:
        """The last row of metrics before a complete checkpoint, as MLflow has it."""
        state = self.storage.read_json(f"{name}/{STATE_FILE}")
        health = {f"health/{key}": value for key, value in state["metrics"].items()}
        row: dict[str, float] = state.get("row") or health  # older checkpoints have no row
        return row

    def complete_names(self) -> list[str]:
        """Names of the complete checkpoints, oldest first."""
        return list_complete_checkpoints(self.storage)


def list_complete_checkpoints(storage: Storage) -> list[str]:
    """Names of the complete checkpoints in a run's `checkpoints` folder, oldest first."""
    folders = (name for name in storage.folders() if name.startswith("step-"))
    return [name for name in folders if storage.exists(f"{name}/{COMPLETE_FILE}")]


def read_full_tensors(storage: Storage, name: str) -> dict[str, Tensor]:
    """Every whole fp32 tensor of a checkpoint's student and teacher; no process group needed.

    Keys are `student/NAME` (as in the objective) and `teacher/NAME` (as in the module that the
    teacher copies).

    Raises:
        DataError: the checkpoint is damaged or not complete.
    """
    files = _committed_files(storage, name)
    damage = _damaged_files(storage, name)
    if damage:
        raise DataError(
            f"the checkpoint is damaged: {'; '.join(damage[:3])}", where=storage.uri(name)
        )
    reader = SliceReader(storage, _slice_files(name, files))
    return {
        f"{kind}/{tensor}": reader.read_tensor(kind, tensor)
        for kind, tensor in reader.shapes
        if kind in ("student", "teacher")
    }


def _committed_files(storage: Storage, name: str) -> dict[str, dict[str, Any]]:
    if not storage.exists(f"{name}/{COMPLETE_FILE}"):
        raise DataError(
            "this checkpoint is not complete",
            where=storage.uri(name),
            hint="name one whose folder holds COMPLETE",
        )
    marker = storage.read_json(f"{name}/{COMPLETE_FILE}")
    if marker["layout"] > FORMAT_VERSION:
        raise DataError(
            f"this checkpoint has layout {marker['layout']}, this version reads up to"
            f" {FORMAT_VERSION}",
            where=storage.uri(name),
            hint="use the version of orchestrator that wrote it, or a newer one",
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
        path = storage.fs_path(f"{name}/{file}")
        try:
            digest = with_retries(_sha256, storage, path)
        except FileNotFoundError:
            wrong.append(f"{file} is missing")
            continue
        if digest != files[file]["sha256"]:
            wrong.append(f"{file} has other bytes than were written")
    return wrong


def _damaged_files(storage: Storage, name: str) -> list[str]:
    return _mismatches(storage, name, _committed_files(storage, name), 0, 1)


def _sha256(storage: Storage, path: str) -> str:
    digest = hashlib.sha256()
    with storage.fs.open_input_stream(path) as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
