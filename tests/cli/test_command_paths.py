"""Paths that commands are given: read rightly, or refused in one line with exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.cli import main

CLIPS = "physics://drop?clips=2&size=32&fps=8&seconds=2"
INSPECT = ["data", "inspect", CLIPS, "data.frames=4", "data.size=32"]


def exit_code(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["orchestrator", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "~none/job.yaml"],
        ["run", "s3://bucket/job.yaml"],
        ["run", ""],
        ["models", "list", "--storage", "s3://"],
        ["models", "list", "--storage", "file://x"],
        ["models", "list", "--tracking", "nonsense"],
        ["models", "export", "~none/model", "out"],
        ["models", "export", "s3://", "out"],
        ["models", "export", "model", "s3://bucket/out"],
        ["models", "import", "nowhere", "out"],
        ["models", "import", "s3://bucket/x", "out"],
        ["models", "import", "file", "/dev/null/x"],
        ["data", "inspect", "~none/videos"],
        ["data", "inspect", "s3:/bucket"],
        ["data", "verify", "gs://"],
        ["data", "audit", "run", "--storage", "s3:/bucket"],
        [*INSPECT, "--out", "/dev/null/x.png"],
        [*INSPECT, "--out", "sheet.xyz"],
        [*INSPECT, "--out", "sheet"],
        [*INSPECT, "--out", "."],
        [*INSPECT, "--out", "s3://bucket/x.png"],
        ["ui", "--storage", "", "--no-browser"],
        ["ui", "--storage", "~none", "--no-browser"],
        ["cluster", "render", "~none/profile.yaml"],
        ["plan", "~none/job.yaml"],
    ],
    ids=" ".join,
)
def test_what_is_no_place_is_refused(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert exit_code(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("out", ["~/sheet.png", "sheet.png", "new/folder/sheet.webp", None])
def test_a_sheet_is_written_where_it_is_asked_for(
    out: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    chosen = ["--out", out] if out else []
    assert exit_code(monkeypatch, *INSPECT, *chosen) == 0
    assert Path(out or "sheet.png").expanduser().exists()
    assert not (tmp_path / "~").exists()


def test_a_job_file_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "job.yaml").write_text("kind: nothing\n")
    assert exit_code(monkeypatch, "run", "~/job.yaml") == 2
    assert "unknown job kind 'nothing'" in capsys.readouterr().err
