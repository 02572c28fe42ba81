"""Worlds to act in: gymnasium environments with pixels, and who collects videos in them."""

from orchestrator.environments.registry import ENVIRONMENTS, build_collector, build_environment

__all__ = ["ENVIRONMENTS", "build_collector", "build_environment"]
