"""One unit from video to file, here or in an actor: a failure is reported, never raised."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orchestrator.errors import OrchestratorError
from orchestrator.features.embedder import Embedder
from orchestrator.features.spec import EmbeddingSpec
from orchestrator.features.store import EmbedUnitReport, commit_unit
from orchestrator.jepa.model_files import WorldModel
from orchestrator.storage import Storage
from orchestrator.unexpected import format_traceback, one_line


@dataclass(frozen=True)
class EmbedTask:
    """What every process is told: small to pickle."""

    folder: Storage
    spec: EmbeddingSpec
    metadata: dict[str, Any]
    """What stands in each file's metadata."""

    batch_size: int
    threads: int

    def build_embedder(
        self, model: WorldModel, *, in_subprocesses: bool, device: str = "cpu"
    ) -> Embedder:
        """What embeds in this process."""
        return Embedder(
            model,
            self.spec,
            batch=self.batch_size,
            threads=self.threads,
            in_subprocesses=in_subprocesses,
            device=device,
        )


def embed_unit(
    task: EmbedTask, embedder: Embedder, unit: int, segments: pa.Table
) -> EmbedUnitReport:
    """Embed and commit one unit."""
    try:
        rows, bad = embedder.embed(segments)
        return commit_unit(task.folder, unit, rows, bad, task.metadata)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return EmbedUnitReport(unit, failure="no space left on the storage")
        return EmbedUnitReport(unit, failure=describe_error(error))
    except OrchestratorError as error:
        return EmbedUnitReport(unit, failure=str(error))
    except Exception as error:  # a user's own encoder may raise anything at all
        return EmbedUnitReport(unit, failure=describe_error(error), details=format_traceback(error))


def describe_error(error: Exception) -> str:
    """The error and the line that raised it, in one sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{one_line(error)}{where}"
