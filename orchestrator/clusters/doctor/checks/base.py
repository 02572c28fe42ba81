"""What a check is."""

from __future__ import annotations

from typing import Protocol

from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts


class Check(Protocol):
    """Looks at one thing. It says what is wrong, a line for each, or one line that it is well."""

    name: str

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """At least one finding."""
