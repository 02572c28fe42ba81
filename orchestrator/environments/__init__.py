"""Worlds to act in: gymnasium environments with pixels, and who collects videos in them."""

from orchestrator.environments.registry import WORLDS, build_collector, build_world

__all__ = ["WORLDS", "build_collector", "build_world"]
