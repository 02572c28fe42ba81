"""The command line: parse, call one function, print. Heavy imports wait for their use."""

from orchestrator.cli.app import main

__all__ = ["main"]
