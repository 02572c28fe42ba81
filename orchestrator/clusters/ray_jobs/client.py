"""Ray's job client with an explicit token, timeouts, and one-line errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from orchestrator.cluster_profile import Profile
from orchestrator.clusters.ray_auth import read_auth_token
from orchestrator.errors import RequestError

CONNECT_S, ANSWER_S = 10.0, 60.0

# For Ray these variables have precedence over the address argument.
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class RayJobClient(JobSubmissionClient):  # type: ignore[misc]
    """Client of one cluster's job server; a failed call raises RequestError."""

    def __init__(self, profile: Profile) -> None:
        address = _address(profile)
        token = read_auth_token(profile)
        self._cluster, self._has_token = profile.name, token is not None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with _without_overrides():
                super().__init__(address, headers=headers)
        except (RuntimeError, ValueError, KeyError) as error:
            raise RequestError(
                f"no Ray job server: {str(error).splitlines()[0][:200]}",
                where=address,
                hint=f"correct 'address' of cluster '{profile.name}'; it is Ray's dashboard,"
                " http://HOST:8265",
            ) from None
        except AuthenticationError:
            raise self._auth_error(address) from None

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", (CONNECT_S, ANSWER_S))
        try:
            answer: requests.Response = super()._do_request(method, endpoint, **options)
            return answer
        except AuthenticationError:
            raise self._auth_error(self._address) from None
        except requests.exceptions.RequestException as error:
            raise RequestError(
                f"cluster '{self._cluster}' does not answer: {_reason(error)}",
                where=self._address,
                hint="start it, open its tunnel, or correct 'address' in its profile",
            ) from None

    def _auth_error(self, address: str) -> RequestError:
        what = "refuses the token" if self._has_token else "wants a token, and none was found"
        return RequestError(
            f"cluster '{self._cluster}' {what}",
            where=address,
            hint="give the token that the cluster was started with: in the variable or file that"
            " the profile names under 'token', in RAY_AUTH_TOKEN, or in ~/.ray/auth_token",
        )


def _address(profile: Profile) -> str:
    address = profile.address
    if address is None or not address.startswith(("http://", "https://")):
        raise RequestError(
            f"the profile of cluster '{profile.name}' names no address of Ray's job server",
            where="address",
            hint="add it: http://HOST:8265, the dashboard's; on Kubernetes after kubectl"
            " port-forward service/NAME-head-svc 8265",
        )
    return address


@contextmanager
def _without_overrides() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _reason(error: Exception) -> str:
    """The message of the innermost cause, without object addresses."""
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    reason: BaseException = error
    while reason.__cause__ or reason.__context__:
        reason = reason.__cause__ or reason.__context__  # type: ignore[assignment]
    return getattr(reason, "strerror", None) or str(reason).splitlines()[0][:200]
