"""Pages where a job is seen: Ray's dashboard and MLflow."""

from __future__ import annotations

import base64
import json
import os
import urllib.parse
import urllib.request
from shlex import quote
from typing import Any

from orchestrator.cluster_profile import Profile
from orchestrator.storage import is_remote

_TIMEOUT_S = 3.0


def page_links(profile: Profile, job: dict[str, Any], submission_id: str) -> dict[str, str]:
    """Pages by name; of MLflow the run's, or as near to it as the server tells."""
    found = {}
    if profile.address is not None:
        found["dashboard"] = f"{profile.address.rstrip('/')}/#/jobs/{submission_id}"
    track = job.get("track", {})
    server = str(track.get("uri") or profile.mlflow or "")
    if server.startswith(("http://", "https://")):
        server = server.rstrip("/")
        found["mlflow"] = server + _page(server, str(track.get("experiment", "")), job["name"])
    elif not is_remote(job["storage"]):
        found["ui"] = f"orchestrator ui --storage {quote(job['storage'])}"
    return found


def _page(server: str, experiment: str, name: str) -> str:
    """The run's page; its experiment's or the first one where the run is not there yet, or where
    the server does not answer this machine."""
    try:
        query = urllib.parse.urlencode({"experiment_name": experiment})
        number = _call_mlflow(server, f"experiments/get-by-name?{query}")["experiment"][
            "experiment_id"
        ]
    except (OSError, ValueError, KeyError):
        return ""
    page = f"/#/experiments/{number}"
    quoted = name.replace("'", "")
    wanted = {
        "experiment_ids": [number],
        "filter": f"attributes.run_name = '{quoted}'",
        "order_by": ["attributes.start_time DESC"],
        "max_results": 1,
    }
    try:
        run = _call_mlflow(server, "runs/search", wanted)["runs"][0]["info"]["run_id"]
    except (OSError, ValueError, KeyError, IndexError):
        return page
    return f"{page}/runs/{run}"


def _call_mlflow(server: str, call: str, body: dict[str, Any] | None = None) -> Any:
    """One call of MLflow's REST interface; its client would take seconds to import."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **_login()}
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/{call}", data, headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        return json.loads(answer.read())


def _login() -> dict[str, str]:
    """What MLflow's own client takes from the environment."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if user is None:
        return {}
    pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
