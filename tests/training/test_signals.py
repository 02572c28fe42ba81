"""The first signal asks, the second ends at once; two supervisors that ask at once are one wish."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from orchestrator.training.control import signals
from orchestrator.training.control.signals import graceful_shutdown


class Before(Exception):
    """What a signal does outside."""


@pytest.fixture(autouse=True)
def _outside() -> Iterator[None]:
    def handle(number: int, frame: object) -> None:
        raise Before

    kept = {number: signal.signal(number, handle) for number in signals.SIGNALS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def asked() -> list[str]:
    return []


def test_a_second_sigterm_at_once_is_the_same_wish(asked: list[str]) -> None:
    with graceful_shutdown(lambda: asked.append("stop"), asked.append, "saving") as word:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert asked == ["SIGTERM: saving; again to end at once", "stop"]
    assert word.signal == signal.SIGTERM


def test_a_second_sigterm_later_ends_at_once(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "DUPLICATE_SIGTERM_S", 0.0)
    with graceful_shutdown(lambda: asked.append("stop"), asked.append):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Before):
            signal.raise_signal(signal.SIGTERM)
    assert asked.count("stop") == 1


def test_a_second_ctrl_c_ends_at_once(asked: list[str]) -> None:
    with graceful_shutdown(lambda: asked.append("stop"), asked.append):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Before):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_after_a_sigterm_ends_at_once(asked: list[str]) -> None:
    with graceful_shutdown(lambda: asked.append("stop"), asked.append):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Before):
            signal.raise_signal(signal.SIGINT)
