"""The `promote` kind: an alias of a registered model points at another version."""

from __future__ import annotations

import time
from typing import ClassVar

from orchestrator.job import PromoteJob
from orchestrator.kinds import Kind, RunContext
from orchestrator.outcome import Outcome
from orchestrator.storage import Storage


class PromoteKind(Kind[PromoteJob]):
    """Moves the alias, where the gate allows it."""

    unsupported: ClassVar = {
        "fresh": "it keeps nothing under its name",
        "profile": "only a training has steps",
    }

    def run(self, job: PromoteJob, context: RunContext) -> Outcome:
        """Compare with the present champion where the job says so, then set the alias."""
        from orchestrator.evaluation.promotion_gate import promote
        from orchestrator.tracking.server import tracking_uri

        began = time.time()
        server = tracking_uri(job.track.uri, Storage(job.storage))
        promotion, reason = promote(job.model, job.alias, server, gated=job.gated)
        note = f"models:/{promotion.name}@{promotion.alias} is version {promotion.version}"
        if promotion.before is not None:
            note += f", before: version {promotion.before}"
        note = f"{note} ({reason})" if reason else note
        model_uri = f"models:/{promotion.name}/{promotion.version}"
        return Outcome(
            kind=job.kind,
            name=job.name,
            storage=job.storage,
            seconds=time.time() - began,
            tracking_uri=server,
            model_uri=model_uri,
            note=note,
            headline="promoted",
            rows=[("alias", note)],
            result=f"model {model_uri}",
        )
