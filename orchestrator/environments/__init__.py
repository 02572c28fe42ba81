"""Environments that render pixels, and the policies that collect videos in them."""

from orchestrator.environments.registry import ENVIRONMENTS, build_collector, build_environment

__all__ = ["ENVIRONMENTS", "build_collector", "build_environment"]
