"""What travels to a cluster: code, the job, what was not committed; never data or secrets."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from orchestrator.clusters.packaging.package import PACKAGED_JOB_FILE, make_package
from orchestrator.errors import RequestError
from orchestrator.job import Job, build_job
from orchestrator.tracking.code_version import COMMIT_FILE, DIFF_FILE

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"


def job_of(**changes: object) -> Job:
    data = {"kind": "pack", "name": "p", "source": "videos", **changes}
    return build_job(data)


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "mylab").mkdir(parents=True)
    (folder / "mylab" / "losses.py").write_text("A = 1\n")
    (folder / ".gitignore").write_text("ignored.py\n")
    (folder / "ignored.py").write_text("no\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def own(found: dict[str, bytes]) -> set[str]:
    """Without this library, which goes along where it is used from its sources."""
    return {name for name in found if not name.startswith("orchestrator/")}


def test_what_git_tracks_goes_along_with_the_job_and_the_commit(
    project: Path, tmp_path: Path
) -> None:
    package = make_package(job_of(), project, tmp_path / "a.zip")
    found = members(package.path)
    assert own(found) == {".gitignore", "mylab/losses.py", PACKAGED_JOB_FILE, COMMIT_FILE}
    assert build_job(yaml.safe_load(found[PACKAGED_JOB_FILE])) == job_of()
    assert json.loads(found[COMMIT_FILE])["dirty"] is False
    assert not [note for note in package.notes if "not committed" in note]


def test_changes_are_named_and_kept_as_a_diff_that_applies(project: Path, tmp_path: Path) -> None:
    (project / "mylab" / "losses.py").write_text("A = 2\n")
    (project / "mylab" / "new.py").write_text("B = 1\n")
    package = make_package(job_of(), project, tmp_path / "a.zip")
    found = members(package.path)
    assert found["mylab/losses.py"] == b"A = 2\n"
    assert found["mylab/new.py"] == b"B = 1\n"
    told = "\n".join(package.notes)
    assert "not committed: mylab/losses.py" in told
    assert "not tracked by git: mylab/new.py" in told
    git(project, "stash", "-u")
    patch = tmp_path / "changes.diff"
    patch.write_bytes(found[DIFF_FILE])
    git(project, "apply", str(patch))
    assert (project / "mylab" / "losses.py").read_text() == "A = 2\n"
    assert (project / "mylab" / "new.py").read_text() == "B = 1\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env", "TOKEN=1"),
        ("deploy.pem", KEY),
        ("id_ed25519", KEY),
        ("notes.txt", KEY),
        (".aws/credentials", "x"),
        ("credentials.json", "{}"),
        ("api_token", "x"),
    ],
)
def test_secrets_stay_here_even_if_they_are_tracked(
    project: Path, tmp_path: Path, name: str, content: str
) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(content)
    git(project, "add", "-f", name)
    package = make_package(job_of(), project, tmp_path / "a.zip")
    assert name not in members(package.path)
    assert any("secret" in note and name in note for note in package.notes)
    assert KEY.encode() not in b"".join(members(package.path).values())


def test_data_and_the_storage_stay_here(project: Path, tmp_path: Path) -> None:
    for name in ("clip.mp4", "store/runs/a/run.json", "weights.safetensors"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("{}")
    git(project, "add", "-f", ".")
    package = make_package(job_of(storage="store"), project, tmp_path / "a.zip")
    assert (
        own(members(package.path))
        & {
            "clip.mp4",
            "store/runs/a/run.json",
            "weights.safetensors",
        }
        == set()
    )


def test_the_same_content_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    first = make_package(job_of(), project, tmp_path / "a.zip")
    (project / "mylab" / "losses.py").touch()
    again = make_package(job_of(), project, tmp_path / "b.zip")
    assert first.path.read_bytes() == again.path.read_bytes()
    assert first.digest == again.digest
    (project / "mylab" / "losses.py").write_text("A = 3\n")
    assert make_package(job_of(), project, tmp_path / "c.zip").digest != first.digest


def test_a_link_out_of_the_folder_does_not_go_along(project: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("secret = 1\n")
    (project / "link.py").symlink_to(tmp_path / "outside.py")
    git(project, "add", ".")
    package = make_package(job_of(), project, tmp_path / "a.zip")
    assert "link.py" not in members(package.path)


def test_a_plain_folder_goes_too(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "part.py").write_text("A = 1\n")
    (folder / "notes.bin").write_bytes(b"\0")
    package = make_package(job_of(), folder, tmp_path / "a.zip")
    assert own(members(package.path)) == {"part.py", PACKAGED_JOB_FILE}


def test_a_part_from_elsewhere_goes_along(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "theirlab").mkdir(parents=True)
    (elsewhere / "theirlab" / "__init__.py").write_text("")
    (elsewhere / "theirlab" / "sources.py").write_text("class Mine: ...\n")
    monkeypatch.syspath_prepend(elsewhere)
    package = make_package(job_of(source="theirlab.sources:Mine"), project, tmp_path / "a.zip")
    assert members(package.path)["theirlab/sources.py"] == b"class Mine: ...\n"
    assert any("theirlab" in note for note in package.notes)
    sys.modules.pop("theirlab", None)


def test_a_callback_from_elsewhere_goes_along(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    text = "from orchestrator.training.callbacks.base import Callback\nclass Mine(Callback): ...\n"
    (elsewhere / "theirhooks.py").write_text(text)
    monkeypatch.syspath_prepend(elsewhere)
    data = {"kind": "train", "name": "t", "data": {"source": "videos"}, "optim": {"steps": 1}}
    job = build_job({**data, "callbacks": ["theirhooks:Mine"]})
    package = make_package(job, project, tmp_path / "a.zip")
    found = members(package.path)
    assert found["theirhooks.py"] == text.encode()
    assert yaml.safe_load(found[PACKAGED_JOB_FILE])["callbacks"] == [{"kind": "theirhooks:Mine"}]
    sys.modules.pop("theirhooks", None)


def test_code_that_is_data_is_refused_with_the_largest_named(project: Path, tmp_path: Path) -> None:
    (project / "table.py").write_bytes(b"#" * 3_000_000)
    git(project, "add", ".")
    with pytest.raises(RequestError, match=r"table\.py \(2\.9 MiB\)") as error:
        make_package(job_of(), project, tmp_path / "a.zip", limit_mib=2)
    assert "--code-limit" in error.value.hint
    assert not (tmp_path / "a.zip").exists()
