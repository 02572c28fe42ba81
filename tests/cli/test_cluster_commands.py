"""`orchestrator cluster`: schema, render, up and down as a person meets them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.cluster_profile import PROFILES

ROOT = Path(__file__).parents[2]
Call = Callable[..., tuple[int, str, str]]

TOOL = """#!/bin/sh
echo "$(basename "$0")" "$@" >> "$(dirname "$0")/called"
for last; do :; done
cat "$last" >> "$(dirname "$0")/given"
exit {code}
"""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in the project's folder: exit code, stdout, stderr."""
    monkeypatch.chdir(ROOT)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["orchestrator", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `ray` and a `kubectl` that only write down what they are asked."""
    for name in ("ray", "kubectl"):
        (tmp_path / name).write_text(TOOL.format(code=0))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


@pytest.mark.parametrize("kind", PROFILES)
def test_every_key_of_a_profile_says_what_it_is(call: Call, kind: str) -> None:
    code, out, _ = call("cluster", "schema", kind)
    assert code == 0
    assert "  NAME:" in out, "the keys of a node group stand below its name"
    for key in PROFILES[kind].model_fields:
        assert f"\n{key}:" in f"\n{out}"
    for line in out.splitlines():
        text = line.partition("#")[2]
        assert line.lstrip().startswith(("#", "NAME:", "kind:")) or len(text) > 8, line


def test_the_schema_for_a_machine(call: Call) -> None:
    code, out, _ = call("cluster", "schema", "slurm", "--json")
    assert code == 0
    assert json.loads(out)["properties"]["partition"]["description"] == "Slurm partition."


def test_a_schema_of_no_kind(call: Call) -> None:
    code, _, err = call("cluster", "schema", "kuberey")
    assert (code, err) == (
        2,
        "error: unknown kind of cluster 'kuberey'\n  did you mean 'kuberay'?\n",
    )


def test_render_writes_the_files_and_names_them(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, shown, _ = call("cluster", "render", "kuberay", "--out", str(out))
    assert code == 0
    assert shown.split() == [str(out / n) for n in ("cluster.yaml", "mlflow.yaml", "Dockerfile")]
    assert {file.name for file in out.iterdir()} == {"cluster.yaml", "mlflow.yaml", "Dockerfile"}


def test_render_with_a_job_and_values_of_its_own(call: Call, tmp_path: Path) -> None:
    args = ("kuberay", "jobs/physics/quick.yaml", "scale.workers=16", "--out", str(tmp_path))
    code, _, _ = call("cluster", "render", *args)
    assert code == 0
    text = (tmp_path / "job.yaml").read_text()
    assert "workers: 16" in text
    assert "# Rendered by: orchestrator cluster render kuberay jobs/physics/quick.yaml" in text


def test_render_to_a_place_that_cannot_be_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = call("cluster", "render", "aws", "--out", str(tmp_path / "file" / "out"))
    assert code == 2
    assert err.startswith(f"error: {tmp_path}/file/out: cannot be written: Not a directory\n")


def test_nothing_is_brought_up_without_yes(call: Call, tools: Path) -> None:
    code, _, err = call("cluster", "up", "aws")
    assert code == 2
    assert "ray up --yes cluster.yaml" in err
    assert "add --yes" in err
    assert not (tools / "called").exists()


@pytest.mark.parametrize(
    ("profile", "verb", "asked"),
    [
        ("aws", "up", ["ray up --yes"]),
        ("onprem", "up", ["ray up --yes"]),
        ("gcp", "down", ["ray down --yes"]),
        ("kuberay", "up", ["kubectl apply --filename", "kubectl apply --filename"]),
        ("kuberay", "down", ["kubectl delete --ignore-not-found --filename"]),
    ],
)
def test_the_tool_of_the_kind_is_asked(
    call: Call, tools: Path, profile: str, verb: str, asked: list[str]
) -> None:
    code, _, _ = call("cluster", verb, profile, "--yes")
    assert code == 0
    lines = (tools / "called").read_text().splitlines()
    assert [line.rpartition(" ")[0] for line in lines] == asked
    given = (tools / "given").read_text()
    if profile == "kuberay":
        assert ("kind: StatefulSet" in given) == (verb == "up"), "MLflow's database stays"
    else:
        assert "cluster_name:" in given


def test_a_tool_that_fails_is_a_job_that_failed(call: Call, tools: Path) -> None:
    (tools / "kubectl").write_text(TOOL.format(code=3))
    code, _, err = call("cluster", "down", "kuberay", "--yes")
    assert code == 1
    assert "kubectl ended with code 3" in err


def test_a_tool_that_is_missing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = call("cluster", "up", "kuberay", "--yes")
    assert code == 2
    assert "kubectl is not installed here" in err


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_kinds_that_are_not_brought_up_from_here(call: Call, profile: str) -> None:
    code, _, err = call("cluster", "up", profile, "--yes")
    assert code == 2
    assert "not brought up from here" in err
