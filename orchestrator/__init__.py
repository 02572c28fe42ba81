"""Distributed training of JEPA world models on Ray: video in, a judged and registered model out.

Everything is imported on first use, so that `import orchestrator` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.clusters.submit import submit
    from orchestrator.estimate import plan
    from orchestrator.job import load_job
    from orchestrator.runner import run
    from orchestrator.tracking.registry import load_model

__version__ = "0.1.0"
__all__ = ["__version__", "load_job", "load_model", "plan", "run", "submit"]

_HOME = {
    "load_job": "orchestrator.job",
    "plan": "orchestrator.estimate",
    "run": "orchestrator.runner",
    "submit": "orchestrator.clusters.submit",
    "load_model": "orchestrator.tracking.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
