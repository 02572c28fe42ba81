"""URLs of a submitted job's pages: Ray's dashboard and MLflow."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from shlex import quote
from typing import Any

from orchestrator.cluster_profile import Profile
from orchestrator.clusters.mlflow_rest import auth_headers
from orchestrator.storage import is_remote

_TIMEOUT_S = 3.0


def page_links(profile: Profile, job: dict[str, Any], submission_id: str) -> dict[str, str]:
    """URLs by name; MLflow's is the run's page, or its experiment's or the server's if unknown."""
    links = {}
    if profile.address is not None:
        links["dashboard"] = f"{profile.address.rstrip('/')}/#/jobs/{submission_id}"
    track = job.get("track", {})
    server = str(track.get("uri") or profile.mlflow or "")
    if server.startswith(("http://", "https://")):
        server = server.rstrip("/")
        links["mlflow"] = server + _page(server, str(track.get("experiment", "")), job["name"])
    elif not is_remote(job["storage"]):
        links["ui"] = f"orchestrator ui --storage {quote(job['storage'])}"
    return links


def _page(server: str, experiment: str, name: str) -> str:
    """Path of the run's page; of its experiment's if there is no run yet; empty if the server does
    not answer or has no such experiment."""
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
    """Call MLflow's REST API. Importing MLflow's own client would take seconds."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **auth_headers()}
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/{call}", data, headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        return json.loads(answer.read())
