"""Every run of the tests draws the same numbers, and in `make test` none is drawn afresh."""

from __future__ import annotations

import ast
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

TESTS = Path(__file__).parent
GENERATOR_TYPES = {"default_rng", "SeedSequence", "Random", "RandomState", "PCG64", "Philox"}
UNSEEDED = {
    "urandom",
    "SystemRandom",
    "uuid1",
    "uuid4",
    "getrandom",
    "token_hex",
    "randbits",
    "seed",
}
CLOCKS = {"time", "time_ns", "monotonic", "perf_counter", "getpid", "now"}
GLOBAL = ("random.", "np.random.", "numpy.random.", "torch.rand", "torch.normal", "torch.bernoulli")
SEEDED = {"manual_seed", "seed", *GENERATOR_TYPES}


def called(node: ast.AST) -> str:
    """The dotted name of what a call calls: `np.random.default_rng`."""
    if isinstance(node, ast.Attribute):
        return f"{called(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node.func):
            yield node, called(node.func)


def unseeded_calls(source: str) -> list[str]:
    """What draws afresh in a module, as `LINE: CALL`."""
    tree = ast.parse(source)
    found = {node.lineno: name for node, name in calls(tree) if _fresh(node, name)}
    # What a module draws while it is imported depends on what was imported before.
    for node, name in _at_import(tree):
        drawn = name.startswith(GLOBAL) and name.rpartition(".")[2] not in SEEDED
        if drawn and not any(keyword.arg == "generator" for keyword in node.keywords):
            found[node.lineno] = name
    return [f"{line}: {name}" for line, name in sorted(found.items())]


def _fresh(node: ast.Call, name: str) -> bool:
    last, given = name.rpartition(".")[2], [*node.args, *(k.value for k in node.keywords)]
    if last in UNSEEDED and not given:
        return True
    if last in UNSEEDED - {"seed"} or name.startswith("secrets."):
        return True
    if last == "settings":
        return any(k.arg in ("derandomize", "database") for k in node.keywords)
    if last not in SEEDED:
        return False
    none = [value for value in given if isinstance(value, ast.Constant) and value.value is None]
    clock = any(name.rpartition(".")[2] in CLOCKS for value in given for _, name in calls(value))
    return not given or bool(none) or clock


def _at_import(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Call) and called(node.func):
            yield node, called(node.func)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize(
    "source",
    [
        "np.random.default_rng()",
        "rng = default_rng(None)",
        "random.Random()",
        "random.Random(os.environ.get('RUN') or time.time_ns())",
        "np.random.SeedSequence()",
        "torch.manual_seed(int(time.time()))",
        "torch.seed()",
        "torch.Generator().seed()",
        "np.random.seed()",
        "key = os.urandom(8)",
        "name = uuid.uuid4().hex",
        "secrets.choice(names)",
        "NOISE = np.random.rand(3)",
        "CLIPS = torch.randn(2, 3)",
        "CHOICE = random.choice('ab')",
        "settings(derandomize=False)",
    ],
)
def test_a_fresh_draw_is_seen(source: str) -> None:
    assert unseeded_calls(source)


@pytest.mark.parametrize(
    "source",
    [
        "np.random.default_rng(0)",
        "random.Random(seed).random()",
        "torch.manual_seed(seed)",
        "CLIPS = torch.randn(2, generator=torch.Generator().manual_seed(1))",
        "def test():\n    torch.randn(2), np.random.rand(), random.random()",
        "settings(max_examples=40, deadline=None)",
    ],
)
def test_a_seeded_draw_is_let_be(source: str) -> None:
    assert unseeded_calls(source) == []


def test_no_test_draws_afresh() -> None:
    found = [
        f"{file.relative_to(TESTS)}:{text}"
        for file in sorted(TESTS.rglob("*.py"))
        if file.name != "deterministic.py"
        for text in unseeded_calls(file.read_text())
    ]
    assert found == [], "seed it, or make it a nightly test of `fuzz_seed`"


@pytest.fixture(scope="module")
def drawn_for_all() -> float:
    return float(torch.rand(()))


@pytest.mark.parametrize("turn", range(2))
def test_each_test_begins_with_the_same_global_generators(turn: int, drawn_for_all: float) -> None:
    assert float(torch.rand(())) == drawn_for_all == pytest.approx(0.4963, abs=1e-4)
    assert random.random() == pytest.approx(0.8444, abs=1e-4)
    assert np.random.rand() == pytest.approx(0.5488, abs=1e-4)


def test_hypothesis_draws_the_same() -> None:
    drawn: list[int] = []

    @settings(max_examples=20)
    @given(st.integers(0, 2**60))
    def one(number: int) -> None:
        drawn.append(number)

    one()
    first = drawn.copy()
    drawn.clear()
    one()
    assert drawn == first
    assert settings.get_profile("repeatable").database is None


@pytest.mark.parametrize("turn", range(2))
def test_no_test_sees_what_another_has_changed(turn: int, tmp_path: Path) -> None:
    assert "LEFT_BY_A_TEST" not in os.environ
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert "left-by-a-test" not in sys.path
    assert "test_no_test_sees" not in str(Path.cwd())
    assert torch.get_num_threads() != 7
    os.environ |= {"LEFT_BY_A_TEST": "1", "MLFLOW_TRACKING_URI": "http://nowhere"}
    sys.path.insert(0, "left-by-a-test")
    os.chdir(tmp_path)
    torch.set_num_threads(7)
