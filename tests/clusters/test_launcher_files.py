"""Files for `ray up`: Ray's own schema takes them, and their shell lines are sound."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.cluster_profile import load_profile
from orchestrator.clusters.render.render import render
from orchestrator.errors import RequestError
from tests.support.kubernetes_manifests import REPOSITORY

KINDS = ["onprem", "aws", "gcp"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def rendered(kind: str, **changes: Any) -> dict[str, Any]:
    profile = load_profile(kind).model_copy(update=changes)
    body: dict[str, Any] = yaml.safe_load(render(profile, None, "test")["cluster.yaml"])
    return body


def check(body: dict[str, Any]) -> None:
    """As `ray up` does: defaults filled in, then the schema and Ray's own rules."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(body))


@pytest.mark.parametrize("kind", KINDS)
def test_ray_takes_what_is_rendered(kind: str) -> None:
    check(rendered(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_wrong_field_breaks_rays_schema(kind: str) -> None:
    body = rendered(kind)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        check(body | {"max_worker": 3})


@pytest.mark.parametrize("kind", KINDS)
def test_the_token_travels_as_a_file_and_the_dashboard_stays_on_the_head(kind: str) -> None:
    body = rendered(kind)
    assert body["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    head, worker = body["head_start_ray_commands"][-1], body["worker_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    for line in (head, worker):
        assert "RAY_AUTH_MODE=token" in line
        assert "RAY_AUTH_TOKEN=" not in line


def test_the_token_file_is_the_profiles_own() -> None:
    profile = load_profile("aws")
    token = profile.token.model_copy(update={"file": Path("~/keys/ray")})
    assert rendered("aws", token=token)["file_mounts"] == {"~/.ray/auth_token": "~/keys/ray"}


@pytest.mark.parametrize("kind", KINDS)
def test_shell_lines_pass_shellcheck(kind: str, tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    profile = load_profile(kind).model_copy(update={"env": {"ODD": "two words; $(not run)"}})
    body = yaml.safe_load(render(profile, None, "test")["cluster.yaml"])
    lines = body["setup_commands"] + body["head_start_ray_commands"]
    lines += body["worker_start_ray_commands"]
    script = tmp_path / "lines.sh"
    script.write_text("#!/bin/bash\n" + "\n".join(lines) + "\n")
    # 2086: RAY_HEAD_IP is Ray's; 1090, 1091: what is sourced lies on the node; 2016: `ODD`.
    done = subprocess.run(
        ["shellcheck", "--exclude=2086,1090,1091,2016", str(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_a_value_of_the_environment_is_not_run() -> None:
    line = rendered("aws", env={"ODD": "$(touch ran) `touch ran`"})["head_start_ray_commands"][-1]
    exported = line.partition(";")[0]
    done = subprocess.run(
        ["bash", "-c", f'{exported}; echo "$ODD"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == "$(touch ran) `touch ran`\n"


def test_machines_are_what_the_groups_say() -> None:
    types = rendered("aws")["available_node_types"]
    gpu = types["gpu"]
    assert gpu["resources"] == {"CPU": 192, "GPU": 8}
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, 2)
    assert gpu["node_config"]["InstanceType"] == "p5.48xlarge"
    assert types["head"]["resources"] == {"CPU": 0}, "the head runs the drivers and nothing else"
    spot = rendered("gcp")["available_node_types"]["gpu"]["node_config"]["scheduling"]
    assert spot["provisioningModel"] == "SPOT"
    assert spot["onHostMaintenance"] == "TERMINATE"


def test_hosts_of_a_rack_and_their_environment() -> None:
    body = rendered("onprem")
    assert body["provider"]["head_ip"] == "node-0.rack"
    assert len(body["provider"]["worker_ips"]) == body["min_workers"] == body["max_workers"] == 4
    for line in body["head_start_ray_commands"] + body["worker_start_ray_commands"]:
        assert line.startswith(". ~/orchestrator/bin/activate; "), "each line is its own shell"


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("aws", {"machine_image": None}, "nothing to boot from"),
        ("aws", {"image": None, "setup": ()}, "no orchestrator"),
        ("onprem", {"setup": ()}, "no orchestrator"),
        ("gcp", {"zones": ()}, "needs a zone"),
    ],
)
def test_what_is_missing_is_one_line(kind: str, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(RequestError, match=what) as caught:
        rendered(kind, **changes)
    assert caught.value.hint
    assert kind in caught.value.where
