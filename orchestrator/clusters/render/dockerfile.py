"""The container image of every node, of the driver, and of the MLflow server."""

from __future__ import annotations

from orchestrator.clusters.render.pods import CONTAINER_UID
from orchestrator.clusters.render.yaml_format import comment

BASE = "python:3.11-slim-bookworm"
EXTRA = "cluster"
"""What a node needs beyond a laptop: Ray's job server, Postgres' driver, object stores."""


def dockerfile() -> str:
    """The Dockerfile, the same for every profile."""
    head = comment(
        "Rendered by: orchestrator cluster render PROFILE --out DIR",
        "Built from the root of the project; constraints.txt is the one lock of what is installed."
        " PyTorch's wheel brings CUDA along: the node gives the driver.",
        "  docker build -f cluster/Dockerfile -t IMAGE .",
    )
    return head + _BODY.format(base=BASE, user=CONTAINER_UID, extra=EXTRA)


_BODY = """\
FROM {base}

# rsync and ssh: Ray's cluster launcher. wget, procps: probes, and a person who looks inside.
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends \\
        openssh-client procps rsync wget \\
    && rm -rf /var/lib/apt/lists/*

RUN groupadd --gid {user} ray && useradd --uid {user} --gid {user} --create-home ray

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /opt/orchestrator
COPY constraints.txt pyproject.toml README.md ./
COPY orchestrator ./orchestrator
RUN pip install --constraint constraints.txt ".[{extra}]"

# Job files may name others by a path from here.
COPY jobs ./jobs
RUN chown {user}:{user} /opt/orchestrator

USER {user}:{user}
CMD ["orchestrator", "--help"]
"""
