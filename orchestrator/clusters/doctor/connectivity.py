"""The cluster's job server, asked from outside: does it answer, ask for a token, and take ours?"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import urllib.error
import urllib.request
from typing import Any

from orchestrator.cluster_profile import Profile
from orchestrator.clusters.doctor.facts import CheckResult
from orchestrator.clusters.ray_auth import read_auth_token
from orchestrator.errors import RequestError

ANSWER_S = 10.0
DENIED = (401, 403)


def check_job_server(profile: Profile) -> list[CheckResult]:
    """Address, token and Ray's version; nothing where the cluster is made for the job."""
    if profile.address is None:
        return [CheckResult("address", "ok", f"{profile.kind}: found or made when the job is sent")]
    try:
        status, facts = _version(profile.address, None)
    except OSError as error:
        return [_no_answer(profile.address, error)]
    if status not in DENIED:
        hint = "start its nodes with RAY_AUTH_MODE=token and one token (ray get-auth-token)"
        text = f"{profile.address} asks for none: whoever reaches it can run code there"
        return [
            CheckResult("token", "warn", text, hint),
            _check_ray_version(profile.address, status, facts),
        ]
    try:
        token = read_auth_token(profile)
    except RequestError as error:
        return [CheckResult("token", "fail", error.what, error.hint)]
    if token is None:
        text = f"{profile.address} asks for a token, and none is found here"
        return [
            CheckResult(
                "token", "fail", text, f"{_token_source(profile)} must hold the cluster's token"
            )
        ]
    try:
        status, facts = _version(profile.address, token)
    except OSError as error:
        return [_no_answer(profile.address, error)]
    if status in DENIED:
        text = f"{profile.address} refuses our token"
        hint = f"{_token_source(profile)} must hold the cluster's: on its head, ray get-auth-token"
        return [CheckResult("token", "fail", text, hint)]
    accepted = CheckResult("token", "ok", "asked for, and ours is accepted")
    return [accepted, _check_ray_version(profile.address, status, facts)]


def _check_ray_version(address: str, status: int, facts: dict[str, Any]) -> CheckResult:
    ours, theirs = importlib.metadata.version("ray"), facts.get("ray_version")
    if theirs is None:
        text = f"what answers at {address} is no Ray job server (status {status})"
        hint = "the address is that of Ray's dashboard, usually port 8265"
        return CheckResult("address", "fail", text, hint)
    if theirs != ours:
        text = f"ray {theirs} runs there, ray {ours} here"
        hint = f"pip install 'ray=={theirs}' here, or bring the cluster to {ours}"
        return CheckResult("versions", "fail", text, hint)
    return CheckResult("address", "ok", f"{address} answers, ray {theirs} as here")


def _no_answer(address: str, error: OSError) -> CheckResult:
    text = f"{address} does not answer: {getattr(error, 'reason', error)}"
    hint = "start the cluster, correct the profile's address, or open a tunnel: ui --to CLUSTER"
    return CheckResult("address", "fail", text, hint)


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


def _token_source(profile: Profile) -> str:
    named = profile.token
    return f"the file {named.file}" if named.file else f"the variable {named.env}"
