"""The doctor's actor on one node: reads limits, tries services, measures rates."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from orchestrator.clusters.doctor import node_info as machine
from orchestrator.clusters.mlflow_rest import server_error
from orchestrator.storage import Storage

CREATE_ONCE_FILE = "once"
"""File that every node tries to create; only one may succeed."""


@dataclass(frozen=True)
class ProbeRequest:
    """What the probes of all nodes need to know."""

    storage: str
    folder: str
    """Folder of this diagnosis in the storage."""

    mlflow: str
    datasets: tuple[str, ...]


class NodeProbe:
    """Methods return fields of `facts.NodeFacts`; a fault is such a field, not an exception."""

    def __init__(self, name: str, request: ProbeRequest) -> None:
        self._name, self._request = name, request
        self._storage = Storage(request.storage)
        self._made_root = not self._storage.is_remote and not os.path.isdir(self._storage.root)

    def machine(self) -> dict[str, Any]:
        """Read versions, GPUs, memory and limits."""
        return {
            "versions": machine.versions(),
            "gpu_list": machine.gpu_facts(),
            "cores": machine.usable_cores(),
            "shm": machine.shm_bytes(),
            "open_file_limit": machine.open_files(),
            "requires_token": machine.requires_token(),
            "free": None if self._storage.is_remote else machine.free_bytes(self._storage.root),
        }

    def clock(self) -> float:
        """This node's time, seconds since 1970."""
        return time.time()

    def rates(self, gpu_list: tuple[Any, ...]) -> dict[str, Any]:
        """Measure matrix products on the GPUs, or on the cores if there are none."""
        from orchestrator.clusters.doctor import node_speed as measure

        if gpu_list:
            return {"gpu_list": tuple(measure.measure_gpu(gpu) for gpu in gpu_list)}
        return {"fp32_flops_per_s": measure.cpu_flops(machine.usable_cores())}

    def write(self) -> dict[str, Any]:
        """Write a file of this node, and try to create the file that only one node can create."""
        try:
            self._storage.write_bytes(f"{self._request.folder}/{self._name}", b"doctor")
            created = self._storage.write_if_absent(
                f"{self._request.folder}/{CREATE_ONCE_FILE}", b"doctor"
            )
        except OSError as error:
            return {"write_error": str(error)}
        return {"created_first": created}

    def read(self, writers: list[str]) -> dict[str, Any]:
        """List the nodes in `writers` whose files this node cannot read."""
        return {"missing_writers": tuple(name for name in writers if not self._can_read(name))}

    def _can_read(self, name: str) -> bool:
        try:
            return self._storage.read_bytes(f"{self._request.folder}/{name}") == b"doctor"
        except OSError:
            return False

    def remove_files(self) -> None:
        """Remove what was written, and the storage's folder where that made it."""
        try:
            self._storage.delete_tree(self._request.folder)
            if self._made_root:
                os.rmdir(self._storage.root)
        except OSError:
            pass  # a storage that cannot be written to: `write` has reported it

    def services(self) -> dict[str, Any]:
        """Try MLflow and the datasets from this node."""
        digests, errors = {}, {}
        for uri in self._request.datasets:
            try:
                digests[uri] = _digest(uri)
            except Exception as error:  # whatever a broken file or store makes its reader raise
                errors[uri] = (str(error).splitlines() or [type(error).__name__])[0]
        return {
            "mlflow_error": server_error(self._request.mlflow),
            "digests": digests,
            "data_errors": errors,
        }

    def free_port(self) -> int:
        """A port that nothing listens on."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def all_reduce(self, rank: int, world_size: int, host: str, port: int, backend: str) -> float:
        """Take part in an all-reduce; see `node_speed.measure_all_reduce`."""
        from orchestrator.clusters.doctor import node_speed as measure

        return measure.measure_all_reduce(rank, world_size, host, port, backend)


def _digest(uri: str) -> str:
    """Digest of a dataset's index, after reading one clip as a test."""
    from orchestrator.data.store.index import DatasetIndex

    index = DatasetIndex.open(uri)
    clip = index.shard_rows(0).slice(0, 1).to_pylist()[0]
    index.read_bytes(0, clip["offset"], clip["bytes"], clip["sha256"])
    index.close()
    return index.digest
