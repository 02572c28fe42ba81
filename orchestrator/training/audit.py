"""The audit of a run: its ledger, beside the order of its own job and data."""

from __future__ import annotations

from orchestrator.data.auditing.audit import Audit, audit_ledger
from orchestrator.data.loader.action_data import arrays_of
from orchestrator.data.loader.order import Order
from orchestrator.data.store.clip_reader import Clips
from orchestrator.data.store.index import Index
from orchestrator.errors import RequestError
from orchestrator.job import TrainJob, build_job
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.manager import complete_checkpoints, step_of
from orchestrator.training.run_record import INHERITED, read_record


def audit_run(storage: Storage, name: str) -> Audit:
    """What run `name` trained on up to its newest checkpoint, compared with the order.

    A run that began with another's checkpoint answers for its own steps only.

    Raises:
        RequestError: there is no such run, or nothing of it is saved yet.
    """
    folder = storage.sub("runs", name)
    record = read_record(folder)
    if record is None:
        known = ", ".join(storage.folders("runs")) or "none"
        raise RequestError(f"no run '{name}'", where=storage.root, mend=f"runs there: {known}")
    if not record.datasets:
        raise RequestError(
            "this run was made before runs kept where their data is",
            where=folder.uri("run.json"),
            mend="run its job once more: that notes it",
        )
    checkpoints = complete_checkpoints(folder.sub("checkpoints"))
    if not checkpoints:
        raise RequestError(
            "no step is saved yet", where=folder.root, mend="wait for its first checkpoint"
        )
    job = build_job(record.job, where=folder.uri("run.json"))
    assert isinstance(job, TrainJob)
    indexes: list[Clips] = [Index.open(uri) for uri in record.datasets]
    counts = [index.counts for index in indexes]
    order = Order.of(job, counts, record.weights)
    steps = step_of(checkpoints[-1])
    begun = folder.read_json(INHERITED)["steps"] if folder.exists(INHERITED) else 0
    whole, arrays = job.scale.global_batch, arrays_of(job.data)
    return audit_ledger(folder.sub("ledger"), indexes, order, steps, whole, begun, arrays)
