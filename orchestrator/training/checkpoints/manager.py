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
from orchestrator.storage import Storage, patiently
from orchestrator.training.checkpoints.retention import Kept, to_drop
from orchestrator.training.engine import snapshot as training_state
from orchestrator.training.engine.snapshot import Snapshot
from orchestrator.training.engine.tensor_slices import SliceReader, write_slices
from orchestrator.training.health import finite
from orchestrator.unexpected import one_line, traceback_of

if TYPE_CHECKING:
    from orchestrator.training.engine.engine import Engine

LAYOUT = 1
COMPLETE = "COMPLETE"
STATE = "state.json"
POLL_S = 0.2
# The slowest rank may be this much later than rank 0 before the checkpoint is given up.
PATIENCE_S = 1800.0
CHUNK = 16 * 2**20


def folder_name(step: int) -> str:
    """`step-00001200`."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    """The step of a folder's name."""
    return int(name.removeprefix("step-"))


class Checkpoints:
    """The checkpoints of one run in `storage`. Every rank makes one; rank 0 commits.

    `fence` is called before each commit and raises where another driver has taken the run over:
    of two writers only the later one may commit. A checkpoint that is `held` is not dropped, unless
    the policy's cap wants it.
    """

    def __init__(
        self,
        storage: Storage,
        rank: int,
        world: int,
        policy: Policy,
        fence: Callable[[], None] = lambda: None,
        held: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.storage, self.rank, self.world, self.policy = storage, rank, world, policy
        self._fence, self._held = fence, held
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
        first: Sequence[Callable[[], None]] = (),
    ) -> None:
        """Write a snapshot in the background; waits for the one before it.

        `state` and `metrics` are those of rank 0. `first` is done before the checkpoint can
        count: what must not be missing once it does. A step that is complete already is left.

        Raises:
            JobFailed: the checkpoint before this one could not be written.
        """
        self.wait()
        name = folder_name(snapshot.step)
        if snapshot.step == self._saved or self.storage.exists(f"{name}/{COMPLETE}"):
            for write in first:
                write()
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
            target=self._write,
            args=(name, snapshot, document, first),
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
                mend="free some space or mend the access; the checkpoints before it stand",
                details="" if outage else traceback_of(error),
            ) from error

    def committed(self) -> list[tuple[str, int, dict[str, float]]]:
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
            entry = patiently(write_slices, self.storage, path, snapshot.slices)
            patiently(self.storage.write_json, f"{file}.DONE", entry)
            if self.rank == 0:
                self._commit(name, document)
        except BaseException as error:  # surfaces on the main thread, at the next call
            self._error = error

    def _commit(self, name: str, document: dict[str, Any]) -> None:
        """Wait for every rank's DONE, then write COMPLETE, then drop what is no longer kept."""
        text = (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
        patiently(self.storage.write_bytes, f"{name}/{STATE}", text)
        entry = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        files: dict[str, Any] = {STATE: entry}
        deadline = time.monotonic() + PATIENCE_S
        waiting = [f"rank-{rank:05d}" for rank in range(self.world)]
        while waiting:
            done = patiently(self._done, name, waiting)
            files |= {f"{rank}.safetensors": entry for rank, entry in done.items()}
            waiting = [rank for rank in waiting if rank not in done]
            if waiting and time.monotonic() > deadline:
                raise JobFailed(
                    f"checkpoint {name} is torn: no word from {', '.join(waiting[:3])}",
                    where=self.storage.uri(name),
                    mend="the checkpoints before it stand; look at those ranks' logs",
                )
            if waiting:
                time.sleep(POLL_S)
        self._fence()
        marker = {"layout": LAYOUT, "files": files}
        patiently(self.storage.write_json, f"{name}/{COMPLETE}", marker)
        self._committed.append((name, int(document["step"]), document["metrics"]))
        patiently(self._prune)

    def _done(self, name: str, ranks: list[str]) -> dict[str, Any]:
        """What the ranks that are done have written."""
        return {
            rank: self.storage.read_json(f"{name}/{rank}.DONE")
            for rank in ranks
            if self.storage.exists(f"{name}/{rank}.DONE")
        }

    def _prune(self) -> None:
        """Drop what the policy does not keep; COMPLETE goes first."""
        there = [self._kept(name) for name in self.complete()]
        if self.policy.max_bytes is not None and 2 * there[-1].size > self.policy.max_bytes:
            raise JobFailed(
                f"a checkpoint takes {there[-1].size:,} bytes, and {self.policy.max_bytes:,} are"
                " allowed for all: one must stand while the next is written",
                where="checkpoint.max_bytes",
                mend="allow twice as much as one takes",
            )
        for name in to_drop(there, self.policy):
            self.storage.delete(f"{name}/{COMPLETE}")
            self.storage.delete_tree(name)

    def _kept(self, name: str) -> Kept:
        size, score = 0, None
        if self.policy.max_bytes is not None:
            size = sum(entry.size for entry in self.storage.files(name))
        if self.policy.keep_best:
            score = self.metrics(name).get(self.policy.best)
        return Kept(name, step_of(name), size, score, self._held(name))

    # -- reading ---------------------------------------------------------------------------

    def newest(self) -> str | None:
        """The newest complete checkpoint, or None."""
        complete = self.complete()
        return complete[-1] if complete else None

    def remove_torn(self) -> list[str]:
        """Delete what an earlier start did not finish; gives the names. For rank 0, at a start."""
        complete = self.complete()
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
        files = _files(self.storage, name)
        wrong = _mismatches(self.storage, name, files, self.rank, self.world)
        found: list[list[str]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(found, wrong)
        damage = [file for part in found for file in part]
        if damage:
            raise self._damaged(name, damage)
        state: dict[str, Any] = self.storage.read_json(f"{name}/{STATE}")
        try:
            reader = SliceReader(self.storage, _slice_files(name, files))
        except DataError as error:  # its bytes are those that were written, and are no tensors
            raise self._damaged(name, [f"{error.where}: {error.what}"]) from error
        training_state.restore(engine, reader, int(state["step"]), int(state["adam_step"]))
        return state

    def _damaged(self, name: str, damage: list[str]) -> DataError:
        """Names what is damaged, and the newest checkpoint that is whole."""
        older = [other for other in reversed(self.complete()) if other < name]
        good = next((name for name in older if not _damage(self.storage, name)), None)
        mend = (
            f"{good} is whole: delete the folder above, and the same command continues from it"
            if good
            else "no older checkpoint is whole: start again with --fresh"
        )
        return DataError(
            f"the checkpoint is damaged: {'; '.join(damage[:3])}",
            where=self.storage.uri(name),
            mend=mend,
        )

    def metrics(self, name: str) -> dict[str, float]:
        """What a complete checkpoint scored, as far as it is finite."""
        scores: dict[str, float] = self.storage.read_json(f"{name}/{STATE}")["metrics"]
        return finite(scores)

    def row(self, name: str) -> dict[str, float]:
        """The last row of metrics before a complete checkpoint, as MLflow has it."""
        state = self.storage.read_json(f"{name}/{STATE}")
        health = {f"health/{key}": value for key, value in state["metrics"].items()}
        row: dict[str, float] = state.get("row") or health  # older checkpoints have no row
        return row

    def complete(self) -> list[str]:
        """Names of the complete checkpoints, oldest first."""
        return complete_checkpoints(self.storage)


def complete_checkpoints(storage: Storage) -> list[str]:
    """Names of the complete checkpoints in a run's `checkpoints` folder, oldest first."""
    folders = (name for name in storage.folders() if name.startswith("step-"))
    return [name for name in folders if storage.exists(f"{name}/{COMPLETE}")]


def export_tensors(storage: Storage, name: str) -> dict[str, Tensor]:
    """Every whole fp32 tensor of a checkpoint's student and teacher; no process group needed.

    Keys are `student/NAME` (as in the objective) and `teacher/NAME` (as in the module that the
    teacher copies).

    Raises:
        DataError: the checkpoint is damaged or not complete.
    """
    files = _files(storage, name)
    damage = _damage(storage, name)
    if damage:
        raise DataError(
            f"the checkpoint is damaged: {'; '.join(damage[:3])}", where=storage.uri(name)
        )
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
        path = storage.at(f"{name}/{file}")
        try:
            digest = patiently(_sha256, storage, path)
        except FileNotFoundError:
            wrong.append(f"{file} is missing")
            continue
        if digest != files[file]["sha256"]:
            wrong.append(f"{file} has other bytes than were written")
    return wrong


def _damage(storage: Storage, name: str) -> list[str]:
    return _mismatches(storage, name, _files(storage, name), 0, 1)


def _sha256(storage: Storage, path: str) -> str:
    digest = hashlib.sha256()
    with storage.fs.open_input_stream(path) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
