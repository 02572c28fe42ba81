"""The features of a dataset on disk: how an `embed` job writes them, and how they are read."""

from orchestrator.features.reader import Features

__all__ = ["Features"]
