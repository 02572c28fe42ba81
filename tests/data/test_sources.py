"""A URI names the right source; its units are fixed lists that change when an input does."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from orchestrator.data import sources
from orchestrator.data.sources import base
from orchestrator.data.sources.base import PackedSource, RawClip, Rejected, Source, WorkUnit
from orchestrator.data.sources.folder import FolderSource
from orchestrator.data.sources.manifest import ManifestSource, parse_line
from orchestrator.data.sources.open import open_source
from orchestrator.data.sources.tars import TarSource, expand_braces
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig
from orchestrator.storage import split_file_uri
from tests.support.videos import write_tar, write_video


def inputs(source: object) -> list[str]:
    assert isinstance(source, Source)
    return [name for unit in source.units() for name in unit.inputs]


def test_a_folder_is_searched_for_videos_only(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/x.MKV", "a/deep/y.webm", ".hidden/z.mp4", "a/.w.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    source = open_source(str(tmp_path))
    assert isinstance(source, FolderSource)
    assert inputs(source) == ["a/deep/y.webm", "a/x.MKV", "b.mp4"]


def test_units_are_fixed_and_know_their_inputs(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.mp4").write_bytes(b"x" * (number + 1))
    source = FolderSource(str(tmp_path), 2)
    before = source.units()
    assert [len(unit.inputs) for unit in before] == [2, 2, 1]
    assert pickle.loads(pickle.dumps(source)).units() == before
    (tmp_path / "2.mp4").write_bytes(b"yyy")
    os.utime(tmp_path / "2.mp4", ns=(1, 1))
    after = source.units()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert before[1].id != after[1].id


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("videos/a.mp4 3", "videos/a.mp4", "3"),
        ("my videos/a b.mp4 3", "my videos/a b.mp4", "3"),
        ("my videos/a b.mp4", "my videos/a b.mp4", ""),
        ("a.mp4,12", "a.mp4", "12"),
        ("a b, c.mp4,12", "a b, c.mp4", "12"),
        ("a b.mp4\tpouring water", "a b.mp4", "pouring water"),
        ('"a, b.mp4",7', "a, b.mp4", "7"),
        ('"a b.mp4" 7', "a b.mp4", "7"),
        ("s3://bucket/x y.mp4 0", "s3://bucket/x y.mp4", "0"),
    ],
)
def test_lines_of_a_manifest(line: str, path: str, label: str) -> None:
    assert parse_line(line) == (path, label)


def test_a_manifest_starts_at_its_folder_and_keeps_labels(tmp_path: Path) -> None:
    write_video(tmp_path / "data/my clips/one two.mp4")
    write_video(tmp_path / "data/b.mp4")
    absolute = write_video(tmp_path / "far/c.mp4")
    lines = ["path label", "my clips/one two.mp4 5", "b.mp4 wave", f"{absolute} 1.5", "gone.mp4 2"]
    manifest = tmp_path / "data/train.csv"
    manifest.write_text("\ufeff" + "\r\n".join([*lines, "b.mp4 6", ""]), encoding="utf-8")
    source = open_source(str(manifest))
    assert isinstance(source, ManifestSource)
    (unit,) = source.units()
    found = list(source.clips(unit, TranscodeConfig()))
    labels = [json.loads(c.extras["json"])["label"] for c in found if isinstance(c, RawClip)]
    reasons = [item.reason for item in found if isinstance(item, Rejected)]
    assert labels == [5, "wave", 1.5]
    assert reasons == ["no such file", "listed twice in the manifest"]


def test_a_manifest_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("a.mp4 1\nb.mp4 2\n")
    with pytest.raises(RequestError, match="none of the 2 files that it names exists"):
        inputs(open_source(str(tmp_path / "m.txt")))
    (tmp_path / "m.txt").write_text("\n\n")
    with pytest.raises(RequestError, match="empty"):
        inputs(open_source(str(tmp_path / "m.txt")))
    (tmp_path / "m.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(RequestError, match="cannot read the manifest"):
        inputs(open_source(str(tmp_path / "m.txt")))


def test_tars_and_packed_datasets_are_told_apart(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars/a-00.tar", {})
    write_tar(tmp_path / "tars/a-01.tar", {})
    assert isinstance(open_source(str(tmp_path / "tars")), TarSource)
    assert isinstance(open_source(str(tmp_path / "tars/a-00.tar")), TarSource)
    pattern = open_source(str(tmp_path / "tars/a-{00..01}.tar"))
    assert isinstance(pattern, TarSource)
    assert len(pattern.units()) == 2
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/index.parquet").write_bytes(b"")
    assert isinstance(open_source(str(tmp_path / "packed")), PackedSource)
    with pytest.raises(RequestError, match="1 of 3 tars are missing"):
        TarSource(str(tmp_path / "tars/a-{00..02}.tar")).units()


def test_patterns_expand_like_a_shell() -> None:
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{x,y}/{0..1}.tar") == ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]
    with pytest.raises(RequestError, match="neither a range nor a list"):
        expand_braces("a-{oops}.tar")


class Mine:
    """A user's own source."""

    class Config(BaseModel):
        clips: int = 1

    def __init__(self, config: Config) -> None:
        self.uri, self.config = "mine", config

    def units(self) -> list[WorkUnit]:
        return [WorkUnit("u", tuple(map(str, range(self.config.clips))), "")]

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        for name in unit.inputs:
            yield Rejected(name, "never")


class NotASource(Mine):
    units = None  # type: ignore[assignment]


def test_a_source_of_ones_own_by_import_path() -> None:
    assert inputs(open_source(f"{__name__}:Mine?clips=3")) == ["0", "1", "2"]
    with pytest.raises(RequestError, match="clips"):
        open_source(f"{__name__}:Mine?clips=many")
    with pytest.raises(RequestError, match="cannot import 'nowhere'"):
        open_source("nowhere:Mine")
    with pytest.raises(RequestError, match="a source has 'uri', 'units' and 'clips'") as raised:
        open_source(f"{__name__}:NotASource")
    assert raised.value.where == f"{__name__}:NotASource"


def test_types_of_a_source_have_one_identity_under_both_import_paths() -> None:
    for name in ("RawClip", "Rejected", "Source", "WorkUnit"):
        assert getattr(sources, name) is getattr(base, name)


def test_opening_a_folder_imports_no_source_of_generated_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames=4)
    code = (
        "import sys; from orchestrator.data.sources.open import SOURCES_BY_SCHEME, open_source;"
        f" open_source({str(tmp_path)!r});"
        " print([p for p in SOURCES_BY_SCHEME.values() if p.partition(':')[0] in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("uri", "folder", "name"),
    [
        ("/a/b/c.tar", "/a/b", "c.tar"),
        ("/c.tar", "/", "c.tar"),
        ("s3://bucket/a/c.tar", "s3://bucket/a", "c.tar"),
    ],
)
def test_a_file_s_uri_is_its_folder_and_its_name(uri: str, folder: str, name: str) -> None:
    storage, found = split_file_uri(uri)
    assert (storage.root, found) == (folder, name)
    assert storage.uri(found) == uri


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda p: p / "gone", "no such file or folder"),
        (lambda p: p, "the folder is empty"),
        (lambda p: (p / "a.doc").write_bytes(b"1") and p, "no video among 1 files"),
        (lambda p: (p / "a.doc").write_bytes(b"1") and p / "a.doc", r"'\.doc' is not a source"),
        (lambda p: (p / "a.tar.gz").write_bytes(b"1") and p, "no video among"),
    ],
)
def test_what_is_no_source_says_what_one_is(tmp_path: Path, make, what: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError, match=what):
        open_source(str(make(tmp_path)))


def test_a_link_that_leads_nowhere_or_in_circles_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "not here.mp4")
    (tmp_path / "circle").symlink_to(tmp_path)
    assert "a.mp4" in inputs(open_source(str(tmp_path)))
