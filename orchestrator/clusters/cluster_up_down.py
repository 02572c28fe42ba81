"""`cluster up` and `cluster down`: run kubectl or `ray up` on the rendered files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from orchestrator.cluster_profile import Aws, Gcp, KubeRay, OnPrem, Profile, load_profile
from orchestrator.clusters.render.render import render
from orchestrator.errors import JobFailed, RequestError

_RAY_CLUSTER = "cluster.yaml"


def bring_up(name: str, *, yes: bool) -> None:
    """Start the cluster of a profile.

    Raises:
        RequestError: this kind has no files, the tool is not installed, or `yes` is False.
        JobFailed: the tool failed.
    """
    _act(name, "up", yes)


def take_down(name: str, *, yes: bool) -> None:
    """Delete the cluster of a profile. The data of an MLflow server is kept.

    Raises:
        RequestError, JobFailed: as `bring_up`.
    """
    _act(name, "down", yes)


def _act(name: str, verb: str, yes: bool) -> None:
    profile = load_profile(name)
    if not isinstance(profile, KubeRay | Aws | Gcp | OnPrem):
        raise RequestError(
            f"a cluster of kind {profile.kind} is not brought {verb} from here",
            where=f"profile '{profile.name}'",
            hint=_by_hand(profile),
        )
    files = render(profile, None, f"orchestrator cluster {verb} {name}")
    wanted = [file for file in files if file.endswith(".yaml")]
    if verb == "down":
        wanted = [_RAY_CLUSTER]
    with tempfile.TemporaryDirectory() as folder:
        for file in wanted:
            (Path(folder) / file).write_text(files[file])
        commands = [_command(profile, verb, Path(folder) / file) for file in wanted]
        if not yes:
            raise RequestError(
                "this starts or ends machines: " + "; ".join(map(_shown, commands)),
                where=f"cluster {verb} {name}",
                hint=f"look at the files (orchestrator cluster render {name} --out DIR), then"
                " add --yes",
            )
        for command in commands:
            _run(command)


def _command(profile: KubeRay | Aws | Gcp | OnPrem, verb: str, file: Path) -> list[str]:
    if isinstance(profile, KubeRay):
        action = ["apply"] if verb == "up" else ["delete", "--ignore-not-found"]
        return ["kubectl", *action, "--filename", str(file)]
    return ["ray", verb, "--yes", str(file)]


def _run(command: list[str]) -> None:
    tool = _tool(command[0])
    done = subprocess.run([tool, *command[1:]])
    if done.returncode != 0:
        raise JobFailed(
            f"{command[0]} ended with code {done.returncode}",
            where=_shown(command),
            hint="what it printed stands above",
        )


def _tool(name: str) -> str:
    """Path of a command: next to this Python if it is there (`ray`), else from PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RequestError(
            f"{name} is not installed here",
            where=f"$PATH: {name}",
            hint=f"install {name}, or render the files and bring them to where it is",
        )
    return found


def _shown(command: list[str]) -> str:
    return " ".join([*command[:-1], Path(command[-1]).name])


def _by_hand(profile: Profile) -> str:
    if profile.kind == "local":
        return "start it by hand: RAY_AUTH_MODE=token ray start --head"
    return f"it comes with each job: orchestrator submit JOB --to {profile.name}"
