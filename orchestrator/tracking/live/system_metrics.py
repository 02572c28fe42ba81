"""CPU, memory, disk, network and GPU of this node, sampled beside the training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

log = logging.getLogger(__name__)


class SystemMonitor:
    """Calls `on_sample` with MLflow's system metrics of this node every `interval_s` seconds.

    MLflow's own monitor ends for good at the first request that fails; here the samples go
    through the logger's backlog like everything else.
    """

    def __init__(
        self, node_id: str, on_sample: Callable[[dict[str, float]], None], interval_s: float = 10.0
    ) -> None:
        self.prefix, self.on_sample, self.interval_s = f"system/{node_id}/", on_sample, interval_s
        self.monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        try:
            self.monitors.append(GPUMonitor())
        except (ImportError, RuntimeError) as error:
            # No NVIDIA GPU here, or nvidia-ml-py is not installed.
            log.info("no GPU metrics on %s: %s", node_id, error)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="system-metrics")
        self._thread.start()

    def close(self) -> None:
        """Take a last sample and end."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        self._collect()  # processor load is measured between two calls: the first says nothing
        while not self._stop.wait(self.interval_s):
            self.on_sample(self._collect())
        self.on_sample(self._collect())

    def _collect(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            values.update(monitor.aggregate_metrics())
            monitor.clear_metrics()
        return {f"{self.prefix}{key}": float(value) for key, value in values.items()}
