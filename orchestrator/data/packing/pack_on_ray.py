"""Packing units as Ray Data tasks, one each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from orchestrator.data.packing.unit import PackUnitReport, pack_unit
from orchestrator.data.sources.base import InPlaceSource, Source, WorkUnit
from orchestrator.job import TranscodeConfig
from orchestrator.storage import Storage
from orchestrator.units.ray_map import map_on_ray


def pack_on_ray(
    storage: Storage,
    source: Source | InPlaceSource,
    units: list[WorkUnit],
    encode: TranscodeConfig,
    cpus: float,
) -> Iterator[PackUnitReport]:
    """Reports as units finish, in any order, each task with `cpus` cores.

    Raises:
        RequestError: the cluster has fewer cores than one task asks for.
        JobFailed: a task's process died again and again.
    """

    def work(row: dict[str, Any]) -> dict[str, str]:
        unit = WorkUnit(str(row["id"]), tuple(row["inputs"]), str(row["identity"]))
        return {"report": pack_unit(storage, source, unit, encode).encode()}

    rows = [asdict(unit) for unit in units]
    for row in map_on_ray(work, rows, "packing", source.uri, cpus):
        yield PackUnitReport.decode(str(row["report"]))
