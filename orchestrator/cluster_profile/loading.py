"""From a profile's name or file to a checked profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.cluster_profile.schema import PROFILES, Profile
from orchestrator.errors import RequestError, suggest
from orchestrator.job.loading.validation_errors import validation_request_error
from orchestrator.job.loading.yaml_source import parse_yaml, read_text

PROFILE_FOLDER = Path("cluster")
"""Where profiles lie that are named without a path."""


def load_profile(name: str | Path, folder: Path = PROFILE_FOLDER) -> Profile:
    """The profile `cluster/NAME.yaml`, or that of a file.

    Raises:
        RequestError: there is none, or one line per mistake in it.
    """
    path = _find(str(name), folder)
    data, spots = parse_yaml(read_text(path), str(path))
    if not isinstance(data, dict) or "kind" not in data:
        raise RequestError(
            "a cluster profile is a mapping with a 'kind'",
            where=str(path),
            hint=f"add one of: {', '.join(PROFILES)}",
        )
    kind = str(data["kind"])
    if kind not in PROFILES:
        raise RequestError(
            f"unknown kind of cluster '{kind}'",
            where=spots.get(("kind",), str(path)),
            hint=suggest(kind, list(PROFILES)),
        )
    data.setdefault("name", path.stem)
    try:
        return PROFILES[kind].model_validate(data)
    except ValidationError as error:
        hint = f"every key and its meaning: orchestrator cluster schema {kind}"
        raise validation_request_error(
            error, PROFILES[kind], data, str(path), spots, hint
        ) from None


def profile_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a kind of cluster, with descriptions, defaults and bounds.

    Raises:
        RequestError: there is no such kind.
    """
    if kind not in PROFILES:
        raise RequestError(f"unknown kind of cluster '{kind}'", hint=suggest(kind, list(PROFILES)))
    return TypeAdapter(PROFILES[kind]).json_schema(by_alias=True)


def _find(name: str, folder: Path) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    path = folder / f"{name}.yaml"
    if not path.exists():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise RequestError(
            f"no cluster profile '{name}'",
            where=str(folder),
            hint=suggest(name, known) if known else f"write one: {path}",
        )
    return path
