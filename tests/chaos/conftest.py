"""One uninterrupted run, which the others are compared with."""

from __future__ import annotations

import pytest

from orchestrator.bench.fault_injection import RunHarness
from tests.support.faults import make_arena


@pytest.fixture(scope="session")
def fault_arena(tmp_path_factory: pytest.TempPathFactory) -> RunHarness:
    """Every test strikes runs of its own name in it."""
    return make_arena(tmp_path_factory.mktemp("arena"))
