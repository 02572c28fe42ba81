"""What a check is."""

from __future__ import annotations

from typing import Protocol

from orchestrator.clusters.doctor.facts import Facts, Finding


class Check(Protocol):
    """Looks at one thing. It says what is wrong, a line for each, or one line that it is well."""

    name: str

    def look(self, facts: Facts) -> list[Finding]:
        """At least one finding."""
