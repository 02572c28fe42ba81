"""Whether an MLflow server serves this machine, and if not, why."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request

SEARCH = "/api/2.0/mlflow/experiments/search"
ANSWER_S = 5.0


def server_error(uri: str) -> str:
    """Why the server at `uri` does not serve; empty where it does, or is none to be asked.

    A real request, with MLflow's own credentials: one that is alive may still refuse.
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
    """As MLflow takes them from the environment."""
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token:
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if user is None:
        return {}
    pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
