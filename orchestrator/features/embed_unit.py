"""One unit from video to file, here or in an actor: a failure is reported, never raised."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orchestrator.errors import OrchestratorError
from orchestrator.features.embedder import Embedder
from orchestrator.features.spec import Spec
from orchestrator.features.store import Report, commit_unit
from orchestrator.jepa.model_files import WorldModel
from orchestrator.storage import Storage
from orchestrator.unexpected import one_line, traceback_of


@dataclass(frozen=True)
class Task:
    """What every process is told: small to pickle."""

    folder: Storage
    spec: Spec
    about: dict[str, Any]
    """What stands in each file's metadata."""

    batch: int
    threads: int

    def embedder(self, model: WorldModel, *, isolated: bool, device: str = "cpu") -> Embedder:
        """What embeds in this process."""
        return Embedder(
            model,
            self.spec,
            batch=self.batch,
            threads=self.threads,
            isolated=isolated,
            device=device,
        )


def run_unit(task: Task, embedder: Embedder, unit: int, segments: pa.Table) -> Report:
    """Embed and commit one unit."""
    try:
        rows, bad = embedder.embed(segments)
        return commit_unit(task.folder, unit, rows, bad, task.about)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Report(unit, failure="no space left on the storage")
        return Report(unit, failure=described(error))
    except OrchestratorError as error:
        return Report(unit, failure=str(error))
    except Exception as error:  # a user's own encoder may raise anything at all
        return Report(unit, failure=described(error), details=traceback_of(error))


def described(error: Exception) -> str:
    """The error and the line that raised it, in one sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{one_line(error)}{where}"
