"""Work units as Ray Data tasks, one each."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.data import DataContext
from ray.util.annotations import RayDeprecationWarning

from orchestrator.errors import JobFailed, RequestError
from orchestrator.ray_session import ray_session
from orchestrator.unexpected import format_traceback, one_line

_MOST_BLOCKS = 10_000
_RETRIES = 3
"""Ray Data would repeat a task whose process dies for ever."""


def map_on_ray(
    work: Callable[[dict[str, Any]], dict[str, Any]],
    rows: list[dict[str, Any]],
    task_name: str,
    error_location: str,
    cpus: float = 1.0,
) -> Iterator[dict[str, Any]]:
    """What `work` gives for each row, in any order, each in a task of `cpus` cores.

    Args:
        task_name: the work's name, and `error_location` its source, for errors.

    Raises:
        RequestError: the cluster has fewer cores than one task asks for.
        JobFailed: a task's process died again and again.
    """
    with ray_session() as ray, quiet_ray_data():
        there = float(ray.cluster_resources().get("CPU", 0))
        # A cluster without any core has a head that only leads: it starts nodes when asked.
        if 0 < there < cpus:
            raise RequestError(
                f"a {task_name} task asks for {cpus:g} CPU cores, the cluster has {there:g}",
                where="cpus",
                hint=f"set cpus={there:g} or less",
            )
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
        with warnings.catch_warnings():
            # Named arguments cannot say it in this release of Ray; from 2.64 on they must.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = dataset.map(work, num_cpus=cpus, max_retries=_RETRIES)
        try:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                names = list(batch)
                for values in zip(*(batch[name] for name in names), strict=True):
                    yield dict(zip(names, values, strict=True))
        except ray.exceptions.RayError as error:
            raise JobFailed(
                f"a {task_name} task died {_RETRIES + 1} times: {one_line(error)}",
                where=error_location,
                hint="is there memory enough? What is committed is kept; 'orchestrator run"
                " --local' names the input at which it happens",
                details=format_traceback(error),
            ) from error


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Ray Data without bars and log lines of its own: `Progress` tells how far it is."""
    context = DataContext.get_current()
    logger = logging.getLogger("ray.data")
    bars, level = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
