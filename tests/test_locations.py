"""What a person writes for a place: one path, one URI, or one line that says why it is none."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.paths import is_remote, local_path, normalize_path, require_writable
from orchestrator.storage import Storage


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and a working directory beside it."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("~", "HOME"),
        ("~/runs", "HOME/runs"),
        ("~/a b/ünï 視", "HOME/a b/ünï 視"),
        ("./~", "HERE/~"),
        ("./~/runs", "HERE/~/runs"),
        ("a~b", "HERE/a~b"),
        ("runs", "HERE/runs"),
        ("runs/", "HERE/runs"),
        ("runs///", "HERE/runs"),
        (".", "HERE"),
        ("what?x=1", "HERE/what?x=1"),
        ("feature%2Fx", "HERE/feature%2Fx"),
        ("a#b", "HERE/a#b"),
        ("a:b/c", "HERE/a:b/c"),
        ("/data/x://y", "/data/x:/y"),
        ("/", "/"),
        ("file:///data/a", "/data/a"),
        ("file:/data/a", "/data/a"),
        ("file://localhost/data/a", "/data/a"),
        ("FILE:///data/a", "/data/a"),
        ("file:///data/a%20b%3F", "/data/a b?"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket/A", "s3://bucket/A"),
        ("s3a://bucket/a", "s3://bucket/a"),
        ("gs://bucket/what?x=1#y%2F", "gs://bucket/what?x=1#y%2F"),
        ("GS://bucket/a", "gs://bucket/a"),
    ],
)
def test_a_place(given: str, wanted: str, home: Path) -> None:
    absolute = wanted.replace("HOME", str(home)).replace("HERE", os.getcwd())
    assert normalize_path(given) == absolute
    assert normalize_path(absolute) == absolute
    assert Storage(given).root == absolute


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "an empty path"),
        ("  ", "an empty path"),
        ("a\0b", "NUL"),
        ("~no-such-user/x", "no home folder '~no-such-user'"),
        ("$HOME/runs", "begins with a variable"),
        ("${STORAGE}/runs", "begins with a variable"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3:/bucket", "names no bucket"),
        ("s3:bucket", "names no bucket"),
        ("S3:/bucket", "names no bucket"),
        ("s3://?x", "names no bucket"),
        ("s3://my bucket/x", "names no bucket"),
        ("s3://[x", "names no bucket"),
        ("gs://", "names no bucket"),
        ("gs:/bucket/x", "names no bucket"),
        ("gcs:///x", "names no bucket"),
        ("file://x", "not the URI of a file on this machine"),
        ("file://host/x", "not the URI of a file on this machine"),
        ("file://~/x", "not the URI of a file on this machine"),
        ("file:x", "not the URI of a file on this machine"),
        ("file://", "not the URI of a file on this machine"),
        ("http://host/x", "not supported"),
        ("az://container/x", "not supported"),
        ("hdfs:/x", "not supported"),
        ("wandb://x", "not supported"),
    ],
)
def test_what_is_no_place_is_refused(given: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as error:
        Storage(given)
    assert error.value.exit_code == 2
    assert not os.listdir(".")


@pytest.mark.parametrize("value", ["", "relative"])
def test_a_home_that_is_no_folder_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", value)
    with pytest.raises(RequestError, match="no home folder"):
        normalize_path("~/runs")


def test_a_folder_that_is_named_like_a_variable_is_one() -> None:
    os.mkdir("$RUNS")
    assert normalize_path("$RUNS/a".partition("/")[0]) == f"{os.getcwd()}/$RUNS"


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(RequestError, match="working directory is gone"):
        normalize_path("runs")
    assert normalize_path("/runs") == "/runs"


@pytest.mark.parametrize("root", ["s3://bucket/what?x=1#y", "s3://bucket/a%2Fb"])
def test_keys_of_an_object_store_are_not_cut(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage = pickle.loads(pickle.dumps(Storage(root)))
    assert storage.fs_path("c") == root.removeprefix("s3://") + "/c"
    assert storage.subfolder("c").parent.root == root


@pytest.mark.parametrize(
    ("given", "remote"),
    [("s3://b", True), ("GS://b/x", True), ("s3:/b", False), ("/s3://b", False), ("s3://[", True)],
)
def test_what_is_remote(given: str, remote: bool) -> None:
    assert is_remote(given) == remote


def test_a_local_path_stays_as_short_as_it_was_given(home: Path) -> None:
    assert local_path("out/x") == Path("out/x")
    assert local_path("~/x") == home / "x"
    with pytest.raises(RequestError, match="not on this machine"):
        local_path("s3://bucket/x")


@pytest.mark.parametrize("name", ["new", "new/deep/er", "."])
def test_a_folder_that_can_be_made_is_not_made_yet(name: str, tmp_path: Path) -> None:
    require_writable(tmp_path / "work" / name, "storage")
    assert not os.listdir(tmp_path / "work")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "a file, not a folder"),
        ("file/below", "a file, not a folder"),
        ("dangling", "a link to nothing"),
        ("loop/x", "too many levels of symbolic links"),
        ("a" * 300, "file name too long"),
        ("/dev/null/x", "a file, not a folder"),
        ("/proc/none/x", "no such file|permission denied|read-only"),
    ],
)
def test_a_folder_that_cannot_be_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RequestError, match=reason) as error:
        require_writable(tmp_path / name, "storage")
    assert error.value.where == "storage"
