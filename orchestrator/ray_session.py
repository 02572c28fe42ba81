"""Joining the Ray cluster that is there, or starting one with what this machine has."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[Any]:
    """Yield `ray`, connected. A cluster that this call started is stopped at the end.

    `RAY_ADDRESS` or a running local cluster's address joins that cluster; otherwise a local
    one starts with this machine's cores.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address} if address else {"num_cpus": num_cpus}
    ray.init(
        **options,
        include_dashboard=False if not address else None,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
    )
    try:
        yield ray
    finally:
        ray.shutdown()
