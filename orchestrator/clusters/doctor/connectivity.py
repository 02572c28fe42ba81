"""The cluster's job server, asked from outside: does it answer, ask for a token, and take ours?"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import urllib.error
import urllib.request
from typing import Any

from orchestrator.cluster_profile import Profile
from orchestrator.clusters.doctor.facts import Finding
from orchestrator.clusters.ray_auth import token_of
from orchestrator.errors import RequestError

ANSWER_S = 10.0
DENIED = (401, 403)


def look_at_door(profile: Profile) -> list[Finding]:
    """Address, token and Ray's version; nothing where the cluster is made for the job."""
    if profile.address is None:
        return [Finding("address", "ok", f"{profile.kind}: found or made when the job is sent")]
    try:
        status, facts = _version(profile.address, None)
    except OSError as error:
        return [_silent(profile.address, error)]
    if status not in DENIED:
        mend = "start its nodes with RAY_AUTH_MODE=token and one token (ray get-auth-token)"
        text = f"{profile.address} asks for none: whoever reaches it can run code there"
        return [Finding("token", "warn", text, mend), _same_ray(profile.address, status, facts)]
    try:
        token = token_of(profile)
    except RequestError as error:
        return [Finding("token", "fail", error.what, error.mend)]
    if token is None:
        text = f"{profile.address} asks for a token, and none is found here"
        return [Finding("token", "fail", text, f"{_where(profile)} must hold the cluster's token")]
    try:
        status, facts = _version(profile.address, token)
    except OSError as error:
        return [_silent(profile.address, error)]
    if status in DENIED:
        text = f"{profile.address} refuses our token"
        mend = f"{_where(profile)} must hold the cluster's: on its head, ray get-auth-token"
        return [Finding("token", "fail", text, mend)]
    accepted = Finding("token", "ok", "asked for, and ours is accepted")
    return [accepted, _same_ray(profile.address, status, facts)]


def _same_ray(address: str, status: int, facts: dict[str, Any]) -> Finding:
    ours, theirs = importlib.metadata.version("ray"), facts.get("ray_version")
    if theirs is None:
        text = f"what answers at {address} is no Ray job server (status {status})"
        mend = "the address is that of Ray's dashboard, usually port 8265"
        return Finding("address", "fail", text, mend)
    if theirs != ours:
        text = f"ray {theirs} runs there, ray {ours} here"
        mend = f"pip install 'ray=={theirs}' here, or bring the cluster to {ours}"
        return Finding("versions", "fail", text, mend)
    return Finding("address", "ok", f"{address} answers, ray {theirs} as here")


def _silent(address: str, error: OSError) -> Finding:
    text = f"{address} does not answer: {getattr(error, 'reason', error)}"
    mend = "start the cluster, correct the profile's address, or open a tunnel: ui --to CLUSTER"
    return Finding("address", "fail", text, mend)


def _version(address: str, token: str | None) -> tuple[int, dict[str, Any]]:
    """Status of /api/version, and what it says.

    Raises:
        OSError: nothing answers.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return answer.status, _mapping(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, {}
    except (ValueError, http.client.HTTPException) as error:  # no URL, or another protocol
        raise OSError(str(error)) from None


def _mapping(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _where(profile: Profile) -> str:
    named = profile.token
    return f"the file {named.file}" if named.file else f"the variable {named.env}"
