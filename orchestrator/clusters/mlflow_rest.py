"""Ask an MLflow server by REST whether it accepts requests from this machine."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request

SEARCH = "/api/2.0/mlflow/experiments/search"
ANSWER_S = 5.0


def server_error(uri: str) -> str:
    """Why the server at `uri` cannot be used; empty if it can, or if `uri` is not http(s).

    It sends a real request with MLflow's credentials, because a healthy server may still refuse.
    """
    if not uri.startswith(("http://", "https://")):
        return ""
    request = urllib.request.Request(
        f"{uri}{SEARCH}",
        data=json.dumps({"max_results": 1}).encode(),
        headers={"Content-Type": "application/json", **auth_headers()},
    )
    try:
        urllib.request.urlopen(request, timeout=ANSWER_S).close()
    except urllib.error.HTTPError as error:
        return f"it refuses: {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f"it does not answer: {getattr(error, 'reason', error)}"
    return ""


def auth_headers() -> dict[str, str]:
    """HTTP headers with the credentials that MLflow's client reads from the environment."""
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token:
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if user is None:
        return {}
    pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
