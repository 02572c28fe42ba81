"""A job file on disk, and a package of a user's own parts beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

JOB_YAML = """\
kind: train
name: a-run
data:
  source: videos
  size: 64
model:
  encoder: {dim: 96, depth: 2, heads: 4}
  patch: 8
  predictor: {depth: 1, dim: 48, heads: 2}
objective:
  masks:
    - {blocks: 2}
    - {kind: future}
optim: {steps: 100}
"""

CUSTOM_PARTS = """\
from pydantic import BaseModel

class Loss:
    class Config(BaseModel):
        weight: float = 1.0
        levels: int

class Open:
    class Config(BaseModel, extra="allow"):
        weight: float = 1.0

class Bare:
    pass
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """A valid job whose keys stand on known lines."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB_YAML)
    return path


@pytest.fixture
def custom_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The module name of a user's parts, importable from the current folder only."""
    (tmp_path / "mylab_parts.py").write_text(CUSTOM_PARTS)
    (tmp_path / "mylab_broken.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "mylab_parts"
    for name in ("mylab_parts", "mylab_broken"):
        sys.modules.pop(name, None)
