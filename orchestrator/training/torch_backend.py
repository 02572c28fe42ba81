"""Ray Train's torch backend, whose rendezvous listens on loopback where the ranks are on one."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from orchestrator.training.loopback_rendezvous import bind_rendezvous_to_loopback


class _LoopbackBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(bind_rendezvous_to_loopback)
        super().on_start(worker_group, backend_config)


class LoopbackTorchConfig(TorchConfig):  # type: ignore[misc]
    """`TorchConfig` with this backend."""

    @property
    def backend_cls(self) -> type[_LoopbackBackend]:
        """What starts the process group."""
        return _LoopbackBackend
