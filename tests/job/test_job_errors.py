"""Every wrong job is one clear error: file, line, key, what is wrong, what was meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.job import load_job


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        load_job(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("name: a-run", "nmae: a-run", 2, "nmae: unknown key; did you mean 'name'?"),
        ("  size: 64", "  sise: 64", 5, "data.sise: unknown key; did you mean 'size'?"),
        ("depth: 1, dim", "dpth: 1, dim", 9, "predictor.dpth: unknown key; did you mean 'depth'?"),
        ("{blocks: 2}", "{blcks: 2}", 12, "masks.0.blcks: unknown key; did you mean 'blocks'?"),
        ("kind: future", "kind: futur", 13, "masks.1.kind: unknown kind 'futur'; did you mean"),
        ("  patch: 8", "  patch: 8\n  lr: 1", 9, "model.lr: unknown key; did you mean 'optim.lr'?"),
        ("{steps: 100}", "{steps: many}", 14, "optim.steps: should be a valid integer"),
        ("{steps: 100}", "{lr: 1}", 14, "optim.steps: this key is required"),
        ("optim: {steps: 100}", "optim: 100", 14, "optim: a section with keys is needed here"),
        ("{steps: 100}", "{steps: 100, warmup: 90, decay: 20}", 14, "warmup 90 + decay 20 exceed"),
        ("{steps: 100}", "{steps: 0}", 14, "optim.steps: should be greater than 0 (got 0)"),
        ("heads: 4", "heads: 5", 7, "model.encoder: dim 96 does not divide by heads 5"),
        ("heads: 4", "heads: 24", 7, "a head of 4 channels is too narrow"),
        ("heads: 2", "heads: 5", 9, "model.predictor: dim 48 does not divide by heads 5"),
        ("  size: 64", "  size: 60", 5, "data.size: 60 does not divide by model.patch 8"),
        ("  size: 64", "  size: 64\n  frames: 15", 6, "data.frames: 15 does not divide by"),
        ("{blocks: 2}", "{targets: 0.9, context: 0.5}", 12, "more than the 512 tokens of a clip"),
        ("{kind: future}", "{kind: future, visible: [9, 9]}", 13, "9 to 9 tubelets of a clip of 8"),
        ("{kind: future}", "{kind: future, context: 0.3}", 13, "128 tokens of 2 visible tubelets"),
        ("{kind: future}", "{kind: future, context: 1, targets: 500}", 13, "384 tokens after 2"),
        ("{blocks: 2}", "{targets: 100.5}", 12, "targets 100.5 is no count"),
        ("name: a-run", "name: ../up", 2, "a name is letters, digits"),
        ("name: a-run", "name: 12", 2, "name: should be a valid string (got 12)"),
        ("kind: train", "kind: trian", 1, "unknown job kind 'trian'"),
        ("source: videos", "source: videos\n  sources: [{uri: more}]", 3, "data: give either"),
        ("  source: videos\n", "", 3, "data: give either"),
        ("{steps: 100}", "{steps: 100, lr: .nan}", 14, "optim.lr: should be a finite number"),
        ("{steps: 100}", "{steps: 100, betas: [0.9]}", 14, "optim.betas.1: this key is required"),
        ("{steps: 100}", "{steps: 100, betas: [0.9, 1.5]}", 14, "should be less than 1 (got 1.5)"),
        ("optim:", "scale: {zero: 0, offload: true}\noptim:", 14, "scale.offload: needs a sharded"),
        ("{blocks: 2}", "{aspect: [2, 1]}", 12, "the first of [2.0, 1.0] is above the second"),
        ("size: 64", "size: 64\n  augment: {scale: [0.3, 3]}", 6, "more than the whole frame"),
        ("encoder: {dim: 96, depth: 2, heads: 4}", "encoder: vit-lage", 7, "mean 'vit-large'?"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(
    job_file: Path, old: str, new: str, line: int, said: str
) -> None:
    text = refused(edited(job_file, old, new))
    assert text.startswith(f"{job_file}:{line}: ")
    assert said in text
    assert len(text.splitlines()) == 2


def test_all_mistakes_are_told_at_once_and_none_twice(job_file: Path) -> None:
    edited(job_file, "{blocks: 2}", "{blcks: 2}")
    edited(job_file, "{kind: future}", "{kind: futur}")
    text = refused(edited(job_file, "  size: 64", "  sise: 64"))
    assert "3 mistakes" in text
    assert [text.count(key) for key in ("blcks", "'futur'", "sise")] == [1, 1, 1]
    assert "at least" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: train\nname: a\nname: b\n", ":3: key 'name' stands twice"),
        ("kind: train\noptim: {steps: 1, steps: 2}\n", ":2: key 'steps' stands twice"),
        ("kind: train\n\tname: a\n", ":2: not valid YAML"),
        ("kind: [train\n", "not valid YAML"),
        ("kind: train\n---\nkind: train\n", "not valid YAML"),
        ("a: &a [*a]\n", "nested without end"),
        ("[" * 2000, "nested without end"),
        ("", "the file is empty"),
        ("just words\n", "a job is no str"),
        ("- kind: train\n", "a job is no list"),
        ("name: a\n", "'kind' is missing"),
        ("kind: [train]\n", "unknown job kind"),
        ("kind: train\n1: x\n", "should be"),
        ("\x00\x01", "not valid YAML"),
    ],
)
def test_what_is_no_job_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert said in refused(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.yaml")
    assert "directory" in refused(tmp_path)
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"\x00\x00\x00\x18ftypmp42\xff\xfe\x00")
    assert "not a text file" in refused(video)
    video.write_bytes(b" " * 2_000_000)
    assert "too large" in refused(video)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("scale.workers", "not KEY=VALUE"),
        ("=4", "not KEY=VALUE"),
        ("scale..workers=4", "not KEY=VALUE"),
        ("scale.wrokers=4", "scale.wrokers: unknown key; did you mean 'workers'?"),
        (
            "objective={kind: lewm, ema: 0.9}",
            "objective.ema: unknown key; it belongs to another kind",
        ),
        ("scale.workers=two", "scale.workers: should be a valid integer"),
        ("data.size.x=3", "'size' is a value (64), not a section"),
        ("objective.masks.7.blocks=4", "'7' is no position in a list of 2"),
        ("objective.masks.first.blocks=4", "'first' is no position"),
        ("data.sources=[{uri: physics://a?b=1}]", "not a valid value"),
        ("data.sources.0.uri=x", "gives no list 'sources'"),
    ],
)
def test_a_wrong_override_is_named(job_file: Path, override: str, said: str) -> None:
    text = refused(job_file, override)
    assert text.startswith(f"override '{override}': ")
    assert said in text


def test_overrides_reach_every_kind_of_key(job_file: Path) -> None:
    job = load_job(
        job_file,
        [
            "optim.lr=1e-3",
            "scale.workers=4",
            "objective.masks.0.blocks=5",
            "data.sources=[{uri: 'physics://mixed?clips=10', weight: 2}]",
            "model.encoder=vit-small",
            "model.encoder.depth=3",
        ],
    )
    assert job.kind == "train"
    assert job.optim.lr == 1e-3
    assert job.scale.workers == 4
    assert job.objective.model_dump()["masks"][0]["blocks"] == 5
    assert job.data.source is None
    assert job.data.sources[0].uri == "physics://mixed?clips=10"
    # A size that is changed in one number keeps its others.
    assert job.model.encoder.model_dump() == {
        "kind": "vit", "dim": 384, "depth": 3, "heads": 6, "mlp_ratio": 4.0, "attention": "clip",
    }  # fmt: skip


def test_reading_a_job_imports_no_heavy_library(job_file: Path) -> None:
    code = (
        "import sys; from orchestrator.job import load_job; "
        f"load_job({str(job_file)!r}); "
        "print(sorted({'torch', 'ray', 'mlflow', 'numpy', 'pyarrow'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
