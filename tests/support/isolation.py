"""Hooks that hide the caller's shell from the tests, and one test's changes from the next.

conftest.py loads this file as a plugin.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

# What a person has set to work with clusters, servers and stores; no test means those.
_PREFIXES = ("RAY_", "MLFLOW_", "AWS_", "SLURM_", "GIT_", "ORCHESTRATOR_", "DS_", "TUNE_")
_NAMES = {"PYTHONPATH", "KUBECONFIG", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
_PROXIES = {"http_proxy", "https_proxy", "all_proxy"}

# No name, signature or template of the caller's; a checkout of another user's may be read.
_GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name in _NAMES or name.lower() in _PROXIES:
            del os.environ[name]
    os.environ.update(_GIT)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[Any]:
    """What a test itself changes is undone; what its fixtures set is theirs to undo."""
    import torch

    environment, folder, path = dict(os.environ), os.getcwd(), sys.path.copy()
    threads = torch.get_num_threads()
    try:
        return (yield)
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:] = path
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
