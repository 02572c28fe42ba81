"""Options and hooks that make every run of the tests draw the same, in any order.

conftest.py loads this file as a plugin.
"""

from __future__ import annotations

import random
import secrets
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# A database of examples would make one run depend on what an earlier one found, a deadline and
# "too slow" on how busy the machine is.
_HYPOTHESIS_SETTINGS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("repeatable", derandomize=True, **_HYPOTHESIS_SETTINGS)
settings.register_profile("fuzz", derandomize=False, print_blob=True, **_HYPOTHESIS_SETTINGS)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("repeatable", "what tests draw, and their order")
    group.addoption(
        "--fuzz",
        metavar="SEED",
        help="draw with this seed in the tests that fuzz; `new` takes one never used",
    )
    group.addoption("--shuffle", metavar="SEED", help="files, and tests in a file, in drawn order")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    seed = config.option.fuzz
    if seed is None:
        return
    # xdist hands the options on to its workers, so that all of them draw with the same seed.
    config.option.fuzz = seed = str(secrets.randbits(31)) if seed == "new" else seed
    config.option.hypothesis_seed = seed
    config.option.hypothesis_profile = "fuzz"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """A failure says how to draw the same again."""
    report: pytest.TestReport = yield
    if report.failed:
        drawn = {"--fuzz": item.config.option.fuzz, "--shuffle": item.config.option.shuffle}
        again = " ".join(f"{name} {seed}" for name, seed in drawn.items() if seed is not None)
        if again:
            report.sections.append(("draws of this run", f"pytest {again}"))
    return report


@pytest.fixture(scope="session")
def fuzz_seed(pytestconfig: pytest.Config) -> int:
    """The seed of `--fuzz`; 0 without it. Name it in every message of an assertion."""
    return int(pytestconfig.option.fuzz or 0)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.shuffle is None:
        return
    draw = random.Random(config.option.shuffle)
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    order = list(files.values())
    draw.shuffle(order)
    for tests in order:
        draw.shuffle(tests)
    items[:] = [item for tests in order for item in tests]


@contextmanager
def seeded_global_generators() -> Iterator[None]:
    """Global generators start at seed 0, and go on afterwards from where they were.

    A new process starts each of them, torch's too, with a seed of its own.
    """
    import torch  # not where xdist only hands out tests

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    with seeded_global_generators():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
    """A fixture of several tests takes no draws from the one that happens to come first."""
    if fixturedef.scope == "function":
        return (yield)
    with seeded_global_generators():
        return (yield)
