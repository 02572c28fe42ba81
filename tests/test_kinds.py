"""The registry of job kinds: what it imports, what it refuses, and what `--fresh` archives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import RequestError
from orchestrator.job.loading.load import KINDS
from orchestrator.kinds import KIND_PATHS, RunContext, archive_folders, kind_named, run_job
from orchestrator.progress import SilentProgress
from orchestrator.runner import run
from orchestrator.storage import Storage
from tests.support.job_kinds import JOBS, job_of

ARCHIVED = {
    "train": ["runs/one"],
    "embed": ["features/one"],
    "evaluate": ["evaluations/one"],
    "study": [
        "studies/one",
        "runs/one.still.pixels.n10.s0",
        "runs/one.still.pixels.n20.s0",
        "runs/one.still.random.s0",
    ],
    "tune": ["sweeps/one", "runs/one.t0000", "runs/one.t0001"],
    "pipeline": ["runs/one.train", "evaluations/one.judge", "pipelines/one"],
    "pack": [],
    "promote": [],
}


def test_every_schema_has_a_kind() -> None:
    assert KIND_PATHS.keys() == KINDS.keys() == JOBS.keys()


def test_kinds_are_imported_without_torch_ray_or_mlflow() -> None:
    script = (
        "import sys; from orchestrator.kinds import KIND_PATHS, kind_named;"
        " before = set(sys.modules); [kind_named(name) for name in KIND_PATHS];"
        " print(sorted({'torch', 'ray', 'mlflow', 'deepspeed', 'av'} & set(sys.modules)),"
        " any(name.startswith('orchestrator.training') for name in before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[] False"


def test_an_unknown_kind_is_one_line() -> None:
    with pytest.raises(RequestError, match="unknown job kind 'trian'") as caught:
        kind_named("trian")
    assert "train" in caught.value.hint


@pytest.mark.parametrize("kind", JOBS)
def test_what_fresh_archives(kind: str) -> None:
    assert kind_named(kind).archive(job_of(kind)) == ARCHIVED[kind]


@pytest.mark.parametrize("kind", sorted(JOBS.keys() - {"train"}))
def test_a_profile_is_of_a_training_only(kind: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"--profile is not for {kind} jobs") as caught:
        run(job_of(kind, tmp_path), profile=True)
    assert caught.value.where == "one"


@pytest.mark.parametrize(("kind", "option"), [("tune", "local"), ("pack", "fresh")])
def test_an_option_without_meaning_is_refused_with_its_reason(
    kind: str, option: str, tmp_path: Path
) -> None:
    context = RunContext(SilentProgress(), **{option: True})
    reason = kind_named(kind).unsupported[option]
    with pytest.raises(RequestError) as caught:
        run_job(job_of(kind, tmp_path), context)
    assert caught.value.what == f"--{option} is not for {kind} jobs: {reason}"


def test_archiving_deletes_nothing_and_is_marked_by_the_run(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_json("runs/one/run.json", {"a": 1})
    moved = archive_folders(storage, ["runs/one", "runs/two"], "0123456789abcdef")
    assert moved == ["runs/one"]
    assert storage.read_json("runs/one.until-01234567/run.json") == {"a": 1}
    assert not storage.exists("runs/one")
    storage.write_json("runs/one/run.json", {"a": 2})
    archive_folders(storage, ["runs/one"])  # of no MLflow run: a mark of its own
    assert len(storage.folders("runs")) == 2


@pytest.mark.parametrize(
    ("kind", "driver"),
    [
        ("embed", "orchestrator.features.driver.run_embed"),
        ("evaluate", "orchestrator.evaluation.suite.driver.run_suite"),
        ("study", "orchestrator.study.driver.run_study"),
        ("tune", "orchestrator.tuning.sweep.run_tune"),
    ],
)
def test_fresh_archives_before_the_job_begins(
    kind: str, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    for folder in ARCHIVED[kind]:
        storage.write_json(f"{folder}/old.json", {"kept": True})
    storage.write_json(f"{ARCHIVED[kind][0]}/mlflow.json", {"run_id": "0123456789abcdef"})
    seen = []

    def begin(*_: Any, **__: Any) -> None:
        seen.append([storage.exists(folder) for folder in ARCHIVED[kind]])
        raise RequestError("begun")

    monkeypatch.setattr(driver, begin)
    job, local = job_of(kind, tmp_path), kind != "tune"
    with pytest.raises(RequestError, match="begun"):
        run(job, local=local)
    with pytest.raises(RequestError, match="begun"):
        run(job, local=local, fresh=True)
    count = len(ARCHIVED[kind])
    assert seen == [[True] * count, [False] * count]
    for folder in ARCHIVED[kind]:
        parent, name = folder.split("/")
        (archived,) = [one for one in storage.folders(parent) if one.startswith(f"{name}.until-")]
        assert storage.read_json(f"{parent}/{archived}/old.json") == {"kept": True}


def test_fresh_leaves_features_alone_that_another_process_writes(tmp_path: Path) -> None:
    from orchestrator.features.driver import EMBEDDING_LEASE
    from orchestrator.storage.lease import try_lease

    folder = Storage(str(tmp_path)).subfolder("features", "one")
    folder.write_json("identity.json", {})
    job = job_of("embed", tmp_path)
    with try_lease(folder, EMBEDDING_LEASE) as mine:
        assert mine
        with pytest.raises(RequestError, match="another process is writing the features 'one'"):
            run(job, local=True, fresh=True)
    assert folder.exists("identity.json")
