"""One uninterrupted run, which the others are compared with."""

from __future__ import annotations

import pytest

from jobs import make_arena
from orchestrator.bench.chaos import Arena


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    """Every test strikes runs of its own name in it."""
    return make_arena(tmp_path_factory.mktemp("arena"))
