"""The `embed` kind: features that a trained model has of every clip."""

from __future__ import annotations

import time
from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator.errors import RequestError
from orchestrator.job import EmbedJob
from orchestrator.kinds import Kind, RunContext, archive_folders
from orchestrator.outcome import Outcome, Outputs, Row
from orchestrator.storage import Storage
from orchestrator.text import format_bytes, format_duration, python_command

if TYPE_CHECKING:
    from orchestrator.cluster_profile import Profile
    from orchestrator.estimate.kinds import Estimate, EstimateOptions

_SHOWN = ("rows", "shape", "bytes", "failed", "short", "quarantined", "digest", "data")


class EmbedKind(Kind[EmbedJob]):
    """Writes features to `features/NAME`; the same name continues the same features."""

    folder = "features"
    unsupported: ClassVar = {"profile": "only a training has steps"}

    def archive(self, job: EmbedJob) -> list[str]:
        """The features' folder."""
        return [f"features/{job.name}"]

    def estimate(
        self, job: EmbedJob, profile: Profile | None, options: EstimateOptions
    ) -> Estimate:
        """Clips, and how long decoding them takes at least."""
        from orchestrator.estimate.dataset_jobs import estimate_embedding

        return estimate_embedding(job, profile, options)

    def run(self, job: EmbedJob, context: RunContext) -> Outcome:
        """Embed what is not embedded yet."""
        from orchestrator.features.driver import run_embed

        began = time.time()
        if context.fresh:
            _require_unused(job)
            archive_folders(Storage(job.storage), self.archive(job))
        result = run_embed(job, context.progress, local=context.local)
        facts, seconds = result.info, time.time() - began
        features = {
            "uri": result.uri,
            "dtype": job.dtype,
            "pooling": job.pooling,
            "model": facts["model"]["digest"],
            **{key: facts[key] for key in _SHOWN},
        }
        return Outcome(
            kind=job.kind,
            name=job.name,
            storage=job.storage,
            seconds=seconds,
            model_uri=job.model,
            features=features,
            next_steps=_next_steps(job, result.uri),
            headline=f"embedded in {format_duration(seconds)}",
            rows=embed_rows(features),
            result=f"features {result.uri}",
            outputs=Outputs(features=result.uri),
        )


def _require_unused(job: EmbedJob) -> None:
    """No other process may be writing the features that are about to be archived.

    Raises:
        RequestError: one is.
    """
    from orchestrator.features.driver import EMBEDDING_LEASE
    from orchestrator.storage.lease import try_lease

    folder = Storage(job.storage).subfolder("features", job.name)
    if not folder.exists():
        return
    with try_lease(folder, EMBEDDING_LEASE) as free:
        if not free:
            raise RequestError(
                f"another process is writing the features '{job.name}'",
                where=folder.root,
                hint="stop it before --fresh, or leave --fresh out to wait for it",
            )


def embed_rows(features: Mapping[str, Any]) -> list[Row]:
    """What was written, of which model and data, and what could not be."""
    text = f"{features['rows']:,} clips, {features['dtype']} {features['shape']} each"
    rows = [("features", f"{text}, {format_bytes(features['bytes'])}"), ("", features["uri"])]
    digests = ", ".join(f"{one['source']} ({one['digest']})" for one in features["data"])
    rows += [("of", f"model {features['model']}, data {digests}")]
    bad = [f"{features[key]:,} {key}" for key in ("failed", "short") if features[key]]
    if features["quarantined"]:
        bad.append(f"{features['quarantined']:,} quarantined while packing")
    if bad:
        rows.append(("left out", f"{', '.join(bad)}: see bad.parquet there"))
    return rows


def _next_steps(job: EmbedJob, uri: str) -> list[str]:
    """Commands that work as they stand."""
    reader = "from orchestrator.features import Features"
    steps = [python_command(f"{reader}; print(Features.open({uri!r}).array().shape)")]
    sources = [job.data.source or "", *(source.uri for source in job.data.sources)]
    if job.pooling != "mean" and any(source.startswith("physics://") for source in sources):
        steps.append(
            f"orchestrator run jobs/physics/probe.yaml {quote(f'storage={job.storage}')}"
            f" probe.features={job.name} probe.random_features=null"
        )
    return steps
