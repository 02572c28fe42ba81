"""Cluster profiles: where jobs can be sent, what is there, and what it costs."""

from orchestrator.cluster_profile.loading import load_profile, profile_schema
from orchestrator.cluster_profile.schema import (
    PROFILES,
    Aws,
    Cloud,
    Gcp,
    KubeRay,
    Local,
    NodeGroup,
    OnPrem,
    Profile,
    Slurm,
    Token,
)

__all__ = [
    "PROFILES",
    "Aws",
    "Cloud",
    "Gcp",
    "KubeRay",
    "Local",
    "NodeGroup",
    "OnPrem",
    "Profile",
    "Slurm",
    "Token",
    "load_profile",
    "profile_schema",
]
