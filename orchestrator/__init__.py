"""Distributed training of JEPA world models on Ray: video in, a judged and registered model out.

Everything is imported on first use, so that `import orchestrator` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator import renamed_modules
from orchestrator.version import __version__

if TYPE_CHECKING:
    from orchestrator.clusters.submit import submit
    from orchestrator.estimate import estimate_job as plan
    from orchestrator.job import load_job
    from orchestrator.runner import run
    from orchestrator.tracking.registry import load_model

__all__ = ["__version__", "load_job", "load_model", "plan", "run", "submit"]

_LAZY_IMPORTS = {
    "load_job": ("orchestrator.job", "load_job"),
    "plan": ("orchestrator.estimate", "estimate_job"),
    "run": ("orchestrator.runner", "run"),
    "submit": ("orchestrator.clusters.submit", "submit"),
    "load_model": ("orchestrator.tracking.registry", "load_model"),
}

renamed_modules.install()


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
    import importlib

    module, attribute = _LAZY_IMPORTS[name]
    return getattr(importlib.import_module(module), attribute)
