"""The `pack` kind: raw video into a sharded dataset."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator.job import PackJob
from orchestrator.kinds import Kind, RunContext
from orchestrator.outcome import Outcome, Outputs, Row
from orchestrator.text import format_bytes, format_duration

if TYPE_CHECKING:
    from orchestrator.cluster_profile import Profile
    from orchestrator.data.store.index import DatasetIndex
    from orchestrator.estimate.kinds import Estimate, EstimateOptions


class PackKind(Kind[PackJob]):
    """Packs every source of the job into `datasets/DIGEST`."""

    unsupported: ClassVar = {
        "fresh": "datasets are named by their content, nothing continues under the job's name",
        "profile": "only a training has steps",
    }

    def estimate(self, job: PackJob, profile: Profile | None, options: EstimateOptions) -> Estimate:
        """Work units, tasks and bytes."""
        from orchestrator.estimate.dataset_jobs import estimate_pack

        return estimate_pack(job, profile, options)

    def run(self, job: PackJob, context: RunContext) -> Outcome:
        """Pack what is not packed yet."""
        from orchestrator.data.packing.pack import run_pack

        began = time.time()
        indexes = run_pack(job, context.progress, local=context.local)
        dataset, seconds = dataset_facts(indexes), time.time() - began
        uris = [index.uri for index in indexes]
        return Outcome(
            kind=job.kind,
            name=job.name,
            storage=job.storage,
            seconds=seconds,
            dataset=dataset,
            next_steps=[f"orchestrator data inspect {quote(uri)}" for uri in uris],
            headline=f"packed in {format_duration(seconds)}",
            rows=dataset_rows(dataset),
            result="dataset " + " ".join(uris),
            outputs=Outputs(data=uris[0]),
        )


def dataset_facts(indexes: Sequence[DatasetIndex]) -> dict[str, Any]:
    """Clips, hours, bytes and URIs of packed datasets together."""
    return {
        "clips": sum(index.num_clips for index in indexes),
        "hours": sum(index.seconds for index in indexes) / 3600,
        "bytes": sum(index.num_bytes for index in indexes),
        "uris": [index.uri for index in indexes],
    }


def dataset_rows(dataset: Mapping[str, Any]) -> list[Row]:
    """Size of the data, and a line for each dataset."""
    text = f"{dataset['clips']:,} clips, {format_duration(3600 * dataset['hours'])}"
    text += f", {format_bytes(dataset['bytes'])}"
    if dataset.get("quarantined"):
        text += f", {dataset['quarantined']:,} quarantined"
    return [("data", text), *(("", uri) for uri in dataset["uris"])]
