"""What is committed under `cluster/` is what the renderer gives today."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster_profile import PROFILES, load_profile
from orchestrator.clusters.render.render import RenderedFiles, render
from orchestrator.job import load_job

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path for path in (ROOT / "cluster" / "rendered").iterdir() if path.is_dir())
COMMAND = "# Rendered by: orchestrator cluster render "
RENEW = "run `make render` and look at the difference"


def rendered_again(folder: Path) -> RenderedFiles:
    """What the command at the head of the folder's files gives now."""
    first = next(file for file in sorted(folder.iterdir()))
    command = next(
        line for line in first.read_text().splitlines() if line.startswith(COMMAND)
    ).removeprefix("# Rendered by: ")
    profile, *job = command.split()[3:]
    return render(load_profile(profile), load_job(job[0]) if job else None, command)


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("kind", PROFILES)
def test_there_is_a_valid_profile_of_every_kind(kind: str) -> None:
    assert load_profile(kind).kind == kind


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_what_is_committed_is_what_is_rendered(folder: Path) -> None:
    files = rendered_again(folder)
    dockerfile = files.pop("Dockerfile", None)
    assert {file.name for file in folder.iterdir()} == files.keys(), RENEW
    for name, text in files.items():
        assert (folder / name).read_text() == text, RENEW
    if dockerfile is not None:
        assert (ROOT / "cluster" / "Dockerfile").read_text() == dockerfile, RENEW


def test_what_is_committed_names_no_machine_and_no_registry() -> None:
    for file in (ROOT / "cluster").rglob("*"):
        if file.is_file():
            text = file.read_text()
            for word in ("/work/", "/tmp/", "/root/", "ghcr.io", "docker.io", "gcr.io", ".dkr.ecr"):
                assert word not in text, file


def test_the_image_installs_what_the_lock_says_and_runs_as_nobody_of_weight() -> None:
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    assert "--constraint constraints.txt" in text
    assert [line for line in text.splitlines() if line.startswith("USER")] == ["USER 1000:1000"]
    copied = [
        word for line in text.splitlines() if line.startswith("COPY") for word in line.split()
    ]
    assert {"constraints.txt", "pyproject.toml", "README.md", "orchestrator", "jobs"} < {*copied}
    assert "." not in copied, "data and secrets of the working tree would be copied"
