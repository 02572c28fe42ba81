"""The features of a dataset on disk: how an `embed` job writes them, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.features.reader import Features

__all__ = ["Features"]


def __getattr__(name: str) -> Any:
    """`Features` on first use: it needs torch and pyarrow, the `embed` kind's facts do not."""
    if name != "Features":
        raise AttributeError(f"module 'orchestrator.features' has no attribute '{name}'")
    from orchestrator.features.reader import Features

    return Features
