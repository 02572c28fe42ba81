"""Manifests as tools and people write them: each line its video and its label, or a row."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from orchestrator.data.sources.base import RawClip, Rejected, Source
from orchestrator.data.sources.manifest import ManifestSource, parse_line
from orchestrator.data.sources.open import open_source
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig
from tests.support.videos import write_video


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("movie") / "a.mp4", frames=4, fps=4)


def read(
    folder: Path, movie: Path, names: list[str], text: str | bytes
) -> list[tuple[str, object]]:
    """What a manifest gives for videos of these names: (name, label), or (name, reason)."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(movie, folder / name)
    (folder / "m.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_source(str(folder / "m.csv"))
    assert isinstance(source, Source)
    found: list[tuple[str, object]] = []
    for unit in source.units():
        for item in source.clips(unit, TranscodeConfig()):
            name = item.source.removeprefix(f"{folder}/")
            if isinstance(item, Rejected):
                found.append((name, item.reason))
            else:
                body = json.loads(item.extras.get("json", b"{}"))
                found.append((name, body.get("label")))
    return found


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("3", 3),
        ("0", 0),
        ("-1", -1),
        ("12345678901234567890", 12345678901234567890),
        ("1.5", 1.5),
        ("-0.25", -0.25),
        ("1e-05", 1e-05),
        ("1.5e+10", 1.5e10),
        *[
            (text, text)
            for text in (
                "1_0", "007", "00", "-0", "+5", "1e5", "0x1F", "1.", ".5", "1,5", "nan", "inf",
                "-inf", "Infinity", "None", "true", "١٢", "²", "1e+999", "00.5", "wave", "9" * 400,
            )
        ],
    ],
)  # fmt: skip
def test_a_label_is_as_it_is_written(
    tmp_path: Path, movie: Path, label: str, value: object
) -> None:
    ((_, found),) = read(tmp_path, movie, ["a.mp4"], f"a.mp4\t{label}\n")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ('"a\tb.mp4",7', "a\tb.mp4", "7"),
        ('"a\tb.mp4"\t7', "a\tb.mp4", "7"),
        ('"say ""hi"".mp4",7', 'say "hi".mp4', "7"),
        ('"a b.mp4" pouring water', "a b.mp4", "pouring water"),
        ('"a b.mp4"   7', "a b.mp4", "7"),
        ('"a.mp4","pouring, water"', "a.mp4", "pouring, water"),
        ('"a.mp4"\t"pouring\twater"', "a.mp4", "pouring\twater"),
        ('a.mp4,"pouring, water"', "a.mp4", "pouring, water"),
        ('a.mp4 "pouring water"', "a.mp4", "pouring water"),
        ('a b, c.mp4,"x, y"', "a b, c.mp4", "x, y"),
        ('a.mp4,"say ""hi"""', "a.mp4", 'say "hi"'),
        ('"open.mp4', '"open.mp4', ""),
        ('"a.mp4",', "a.mp4", ""),
        ('"",3', "", "3"),
    ],
)
def test_quotes_are_read_as_tables_write_them(line: str, path: str, label: str) -> None:
    assert parse_line(line) == (path, label)


@pytest.mark.parametrize(
    "name", ["a\tb.mp4", '"open.mp4', "a\u2028b.mp4", "a\x85b.mp4", "a\x0cb.mp4"]
)
def test_a_path_of_any_characters_is_found(tmp_path: Path, movie: Path, name: str) -> None:
    line = f'"{name}",x\ty\n' if "\t" in name else f"{name},x\n"
    label = "x\ty" if "\t" in name else "x"
    assert read(tmp_path, movie, [name], f"b.mp4 1\n{line}") == [
        ("b.mp4", "no such file"),
        (name, label),
    ]


@pytest.mark.parametrize(
    "again",
    ["a.mp4", "./a.mp4", "././a.mp4", ".//a.mp4", "d/../a.mp4", "up/a.mp4", "{folder}/a.mp4"],
)
def test_one_video_is_listed_once_however_it_is_named(
    tmp_path: Path, movie: Path, again: str
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "up").symlink_to(".")
    text = f"a.mp4 1\n{again.format(folder=tmp_path)} 2\nd/b.mp4 3\n"
    first, second, third = read(tmp_path, movie, ["a.mp4", "d/b.mp4"], text)
    assert first == ("a.mp4", 1)
    assert second[1] == "listed twice in the manifest"
    assert third == ("d/b.mp4", 3)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("header", ["", "path,label"])
def test_lines_may_end_in_any_way(
    tmp_path: Path, movie: Path, newline: str, bom: str, header: str
) -> None:
    lines = [header, '"a b.mp4",wave', "c.mp4,007"] if header else ['"a b.mp4",wave', "c.mp4,007"]
    found = read(tmp_path, movie, ["a b.mp4", "c.mp4"], bom + newline.join(lines) + newline)
    assert found == [("a b.mp4", "wave"), ("c.mp4", "007")]


def test_manifests_that_were_joined_have_marks_between(tmp_path: Path, movie: Path) -> None:
    text = "\ufeffa.mp4 1\n\ufeffb.mp4 2\n"
    assert read(tmp_path, movie, ["a.mp4", "b.mp4"], text) == [("a.mp4", 1), ("b.mp4", 2)]


@pytest.mark.parametrize(
    ("line", "name", "reason"),
    [
        ("\0\0\0", "\\x00\\x00\\x00", "cannot be read: a NUL byte in its name"),
        ("a\0.mp4 3", "a\\x00.mp4", "cannot be read: a NUL byte in its name"),
        ("/etc/\0.mp4", "/etc/\\x00.mp4", "cannot be read: a NUL byte in its name"),
        ("x" * 300 + ".mp4 1", "x" * 300 + ".mp4", "cannot be read: File name too long"),
        ("y/" * 3000 + "z.mp4 1", "y/" * 3000 + "z.mp4", "cannot be read: File name too long"),
        ("circle.mp4 1", "circle.mp4", "cannot be read: Too many levels of symbolic links"),
        ("a.mp4/b.mp4 1", "a.mp4/b.mp4", "no such file"),
        ("folder.mp4 1", "folder.mp4", "no such file"),
        ("pipe.mp4 1", "pipe.mp4", "no such file"),
    ],
)
def test_a_line_that_names_nothing_readable_is_a_row(
    tmp_path: Path, movie: Path, line: str, name: str, reason: str
) -> None:
    (tmp_path / "circle.mp4").symlink_to("circle.mp4")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert read(tmp_path, movie, ["a.mp4"], f"a.mp4 1\n{line}\n") == [("a.mp4", 1), (name, reason)]


def test_a_line_too_long_for_a_path_is_a_row(tmp_path: Path, movie: Path) -> None:
    found = read(tmp_path, movie, ["a.mp4"], f'a.mp4 1\n"{"z" * 300_000}.mp4",1\n')
    assert [reason for _, reason in found] == [1, "cannot be read: File name too long"]


@pytest.mark.parametrize("body", [b"\0\0\0\n", b"\0" * 1000, b"circle.mp4 1\n"])
def test_a_manifest_of_nothing_readable_is_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "circle.mp4").symlink_to("circle.mp4")
    (tmp_path / "m.csv").write_bytes(body)
    source = open_source(str(tmp_path / "m.csv"))
    assert isinstance(source, ManifestSource)
    with pytest.raises(RequestError, match="none of the 1 files that it names can be read"):
        source.units()


def test_a_manifest_in_the_root_folder_starts_there() -> None:
    assert ManifestSource("/m.csv", 1).folder == "/"


def test_clips_of_a_listed_video_keep_their_names(tmp_path: Path, movie: Path) -> None:
    shutil.copy(movie, tmp_path / "a.mp4")
    (tmp_path / "m.csv").write_text("./a.mp4 1\n")
    source = open_source(str(tmp_path / "m.csv"))
    assert isinstance(source, Source)
    (unit,) = source.units()
    assert unit.inputs == ("./a.mp4\t1",)
    (clip,) = source.clips(unit, TranscodeConfig())
    assert isinstance(clip, RawClip)
    assert clip.frames == 4
