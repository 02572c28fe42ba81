"""The code that a run was started from: its commit, and what was not committed.

A folder that `submit` unpacked on a cluster is no git checkout; two files in it say what it was.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMMIT_FILE = ".orchestrator-commit.json"
"""In a package: commit, branch, and whether anything was not committed."""

DIFF_FILE = ".orchestrator-uncommitted.diff"
"""In a package: what was not committed, as `git apply` takes it."""


def packaged_git_tags(folder: Path) -> dict[str, str]:
    """MLflow's tags for the commit that a package was made from; empty elsewhere."""
    try:
        found = json.loads((folder / COMMIT_FILE).read_text())
    except FileNotFoundError:
        return {}
    return {
        "mlflow.source.git.commit": found["commit"],
        "mlflow.source.git.branch": found["branch"],
        "mlflow.source.git.dirty": "true" if found["dirty"] else "false",
    }


def log_uncommitted_diff(client: MlflowClient, run_id: str, folder: Path) -> None:
    """Keep what was not committed on the run; each start from other changes adds a file."""
    try:
        raw = (folder / DIFF_FILE).read_bytes()
    except FileNotFoundError:
        return
    mark = hashlib.sha256(raw).hexdigest()[:8]
    client.log_text(run_id, raw.decode("utf-8", "replace"), f"code/uncommitted-{mark}.diff")
