"""Jobs inside a job: what a training's `evaluate`, a sweep's `train` and a pipeline's stages name
is read from its file and put in place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import RequestError
from orchestrator.job.loading.validation_errors import KeyPath as KeyPath
from orchestrator.job.loading.validation_errors import SourceLocations, dotted, nearest_location
from orchestrator.job.loading.yaml_source import parse_yaml, read_text, set_key


def resolve_includes(data: dict[str, Any], spots: SourceLocations) -> None:
    """Put the contents of the job files that are named in their places, and apply each `overrides`.

    Paths are taken from the working directory, as everywhere in a job. What is no path is left.

    Raises:
        RequestError: a file cannot be read or is no YAML, or `overrides` leads through a value.
    """
    if data.get("kind") == "tune" and isinstance(data.get("train"), str):
        data["train"] = _read(data["train"], ("train",), "train", spots)
    for i, entry in evaluate_entries(data):
        _read_entry(entry, ("evaluate", i), "evaluate", spots)
    for i, stage in pipeline_stage_entries(data):
        _read_entry(stage, ("stages", i), None, spots)


def _read_entry(
    entry: dict[str, Any], place: KeyPath, kind: str | None, spots: SourceLocations
) -> None:
    """Put the job of an entry in its place, with what is inside it, and apply its `overrides`."""
    here = (*place, "job")
    if isinstance(entry.get("job"), str):
        entry["job"] = _read(entry["job"], here, kind, spots)
    if not isinstance(entry.get("job"), dict):
        return
    entry["job"] = copy.deepcopy(entry["job"])  # YAML's `*anchor` shares it with other entries
    inner = locations_below(spots, here)
    name = "set" if "set" in entry and "overrides" not in entry else "overrides"  # its former name
    changes = entry.get(name)
    resolve_includes(entry["job"], inner)
    if isinstance(changes, dict):
        where = spots.get((*place, name), name)
        for key, value in changes.items():
            set_key(entry["job"], str(key), value, where, inner)
        del entry[name]
    spots.update({(*here, *path): spot for path, spot in inner.items()})


def pipeline_stage_entries(data: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Position and content of each stage of a pipeline that is a section."""
    entries = data.get("stages") if data.get("kind") == "pipeline" else None
    for i, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield i, entry


def evaluate_entries(data: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Position and content of each entry of a training's `evaluate` that is a section."""
    entries = data.get("evaluate") if data.get("kind") == "train" else None
    for i, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield i, entry


def locations_below(spots: SourceLocations, prefix: KeyPath) -> SourceLocations:
    """Where the keys of the job at `prefix` were written, by their paths in that job."""
    length = len(prefix)
    return {path[length:]: spot for path, spot in spots.items() if path[:length] == prefix}


def _read(path: str, here: KeyPath, kind: str | None, spots: SourceLocations) -> dict[str, Any]:
    """The job of a file, to be put at `here`; `spots` learns the lines of its keys."""
    spot = nearest_location(here, spots) or dotted(here)
    try:
        data, inside = parse_yaml(read_text(Path(path)), path)
    except RequestError as error:
        if error.where != path:
            raise  # a line of that file
        of = f" of kind {kind}" if kind else ""
        raise RequestError(
            f"{dotted(here)}: {error.what}: '{path}'",
            where=spot,
            hint=f"name a job file{of} by its path from the working directory",
        ) from None
    if not isinstance(data, dict):
        raise RequestError("no job: a job is a mapping with a 'kind'", where=path)
    for known in [known for known in spots if known[: len(here)] == here and known != here]:
        del spots[known]
    spots.update({(*here, *where): at for where, at in inside.items()})
    return data
