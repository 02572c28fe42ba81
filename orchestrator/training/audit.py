"""The audit of a run: its ledger, beside the order of its own job and data."""

from __future__ import annotations

from orchestrator.data.auditing.audit import AuditReport, audit_ledger
from orchestrator.data.loader.action_data import required_arrays
from orchestrator.data.loader.clip_reader import ClipIndex
from orchestrator.data.loader.order import Order
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import RequestError
from orchestrator.job import TrainJob, build_job, require_kind
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.manager import checkpoint_step, list_complete_checkpoints
from orchestrator.training.run_record import INHERITED_FILE, read_record


def audit_run(storage: Storage, name: str) -> AuditReport:
    """What run `name` trained on up to its newest checkpoint, compared with the order.

    A run that began with another's checkpoint answers for its own steps only.

    Raises:
        RequestError: there is no such run, or nothing of it is saved yet.
    """
    folder = storage.subfolder("runs", name)
    record = read_record(folder)
    if record is None:
        known = ", ".join(storage.folders("runs")) or "none"
        raise RequestError(f"no run '{name}'", where=storage.root, hint=f"runs there: {known}")
    if not record.datasets:
        raise RequestError(
            "this run was made before runs kept where their data is",
            where=folder.uri("run.json"),
            hint="run its job once more: that notes it",
        )
    checkpoints = list_complete_checkpoints(folder.subfolder("checkpoints"))
    if not checkpoints:
        raise RequestError(
            "no step is saved yet", where=folder.root, hint="wait for its first checkpoint"
        )
    job = require_kind(build_job(record.job, source=folder.uri("run.json")), TrainJob)
    indexes: list[ClipIndex] = [DatasetIndex.open(uri) for uri in record.datasets]
    counts = [index.clips_per_shard for index in indexes]
    order = Order.from_job(job, counts, record.weights)
    steps = checkpoint_step(checkpoints[-1])
    begun = folder.read_json(INHERITED_FILE)["steps"] if folder.exists(INHERITED_FILE) else 0
    whole, arrays = job.scale.global_batch, required_arrays(job.data)
    return audit_ledger(folder.subfolder("ledger"), indexes, order, steps, whole, begun, arrays)
