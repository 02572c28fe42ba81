"""Rendered files on disk."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cluster_profile import load_profile
from orchestrator.clusters.render.render import render
from orchestrator.errors import RequestError
from orchestrator.job import load_job


def render_to(profile: str, job: str | None, overrides: list[str], out: Path) -> list[Path]:
    """Render a profile (and a job) into a folder; the files, as they were written.

    Raises:
        RequestError: a mistake in either, or the folder cannot be written. Nothing was then.
    """
    checked = load_profile(profile)
    found = load_job(job, overrides) if job else None
    words = ["orchestrator cluster render", profile, *([job] if job else []), *overrides]
    files = render(checked, found, " ".join(words))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text)
    except OSError as error:
        raise RequestError(
            f"cannot be written: {error.strerror}", where=str(out), hint="name another --out"
        ) from None
    return [out / name for name in files]
