"""The doctor's hand on one node: an actor without resources that looks, writes and measures."""

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
"""The file that every node tries to create."""


@dataclass(frozen=True)
class ProbeRequest:
    """What a node is asked about beside itself."""

    storage: str
    folder: str
    """Folder of this examination in the storage."""

    mlflow: str
    datasets: tuple[str, ...]


class NodeProbe:
    """Answers with fields of `facts.NodeFacts`; what is wrong is a fact too, and not raised."""

    def __init__(self, name: str, request: ProbeRequest) -> None:
        self._name, self._request = name, request
        self._storage = Storage(request.storage)
        self._made_root = not self._storage.is_remote and not os.path.isdir(self._storage.root)

    def machine(self) -> dict[str, Any]:
        """Versions, GPUs, memory, limits."""
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
        """Matrix rates of the cores, or of the GPUs where there are any."""
        from orchestrator.clusters.doctor import node_speed as measure

        if gpu_list:
            return {"gpu_list": tuple(measure.measure_gpu(gpu) for gpu in gpu_list)}
        return {"fp32_flops_per_s": measure.cpu_flops(machine.usable_cores())}

    def write(self) -> dict[str, Any]:
        """A file of this node's own, and one that only one node can be the first to create."""
        try:
            self._storage.write_bytes(f"{self._request.folder}/{self._name}", b"doctor")
            created = self._storage.write_if_absent(
                f"{self._request.folder}/{CREATE_ONCE_FILE}", b"doctor"
            )
        except OSError as error:
            return {"write_error": str(error)}
        return {"created_first": created}

    def read(self, writers: list[str]) -> dict[str, Any]:
        """Whose files are not found."""
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
            pass  # what could not be written cannot be removed either; `write` has told

    def services(self) -> dict[str, Any]:
        """MLflow and the datasets, as this node reaches them."""
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
        """See `node_speed.measure_all_reduce`."""
        from orchestrator.clusters.doctor import node_speed as measure

        return measure.measure_all_reduce(rank, world_size, host, port, backend)


def _digest(uri: str) -> str:
    """The digest of a dataset's index, once a clip has been read by it."""
    from orchestrator.data.store.index import DatasetIndex

    index = DatasetIndex.open(uri)
    clip = index.shard_rows(0).slice(0, 1).to_pylist()[0]
    index.read_bytes(0, clip["offset"], clip["bytes"], clip["sha256"])
    index.close()
    return index.digest
