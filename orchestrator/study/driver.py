"""`kind: study`: train and probe every cell, then say what the curves allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RequestError
from orchestrator.jepa.model_files import ModelConfig, load_folder, randomly_initialized_model
from orchestrator.job import StudyJob, TrainJob, differences, fingerprint, identity, present_names
from orchestrator.job.config.study import StudyCell
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.study.report import study_report
from orchestrator.study.state_probe import ProbeVideos, make_probe_videos, probe_scores
from orchestrator.study.table import study_summary
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.results.studies import attach_to_parent, open_study, record_study
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import tracking_uri

REPORT, RESULT = "report.html", "study.json"
_SHARED = ("data.", "model.", "optim.", "scale.", "probe.")


@dataclass(frozen=True)
class TrainedCell:
    """What a cell's training left."""

    model_uri: str
    run_id: str


@dataclass(frozen=True)
class SavedStudy:
    """What a study leaves."""

    result: dict[str, Any]
    mlflow_run: RunRef
    report_uri: str
    """Path or URI of the page."""


def run_study(
    job: StudyJob,
    progress: Progress,
    train: Callable[[TrainJob], TrainedCell],
    parent: str | None = None,
) -> SavedStudy:
    """Measure every cell that is not measured yet; the report is in `studies/NAME`.

    `train` runs one training job to its end, or goes on with it. A cell is kept as
    `studies/NAME/cells/CELL.json` as soon as it is measured. `parent` is the MLflow run of the
    pipeline whose stage the job is.

    Raises:
        RequestError: a cell of this name was measured with other values.
        JobFailed: a training stopped, or MLflow did not take the result.
    """
    storage = Storage(job.storage)
    folder = storage.subfolder("studies", job.name)
    _check_same_study(job, folder)
    tracking = open_study(job, storage, folder, parent)
    cells = list(job.cells())
    known = {cell.key: _load_cell(folder, cell) for cell in cells}
    videos: dict[str, tuple[ProbeVideos, ProbeVideos]] = {}
    for number, cell in enumerate(cells):
        progress.update("study", number, len(cells), {"cell": cell.key})
        if known[cell.key] is not None:
            continue
        if cell.background not in videos:
            videos = {cell.background: make_probe_videos(job, cell.background)}
        found = _measure(job, cell, videos[cell.background], storage, tracking, train)
        folder.write_json(f"cells/{cell.key}.json", found)
        known[cell.key] = found
        scores = ", ".join(f"{name} {value:.3f}" for name, value in found["scores"].items())
        progress.message(f"{number + 1}/{len(cells)} {cell.key}: R2 of {scores}")
    progress.update("study", len(cells), len(cells))
    result = study_summary(job, [(cell, known[cell.key] or {}) for cell in cells])
    text = study_report(result)
    folder.write_json(RESULT, result)
    folder.write_bytes(REPORT, text.encode())
    record_study(tracking, job, result, text)
    return SavedStudy(result, tracking, folder.uri(REPORT))


def _measure(
    job: StudyJob,
    cell: StudyCell,
    videos: tuple[ProbeVideos, ProbeVideos],
    storage: Storage,
    tracking: RunRef,
    train: Callable[[TrainJob], TrainedCell],
) -> dict[str, Any]:
    if cell.job is None:
        config = ModelConfig(
            model=job.model,
            size=job.data.size,
            frames=job.data.frames,
            objective="none",
            job={},
            extra={},
        )
        scores = probe_scores(randomly_initialized_model(config, cell.seed), *videos)
        return {"key": cell.key, "scores": scores, "fingerprint": "", "run": ""}
    trained = train(cell.job)
    attach_to_parent(tracking, trained.run_id)
    server = tracking_uri(job.track.uri, storage)
    with model_folder(trained.model_uri, tracking_uri=server) as where:
        scores = probe_scores(load_folder(where), *videos)
    return {
        "key": cell.key,
        "scores": scores,
        "fingerprint": fingerprint(cell.job),
        "run": trained.run_id,
    }


def _load_cell(folder: Storage, cell: StudyCell) -> dict[str, Any] | None:
    """What was measured of a cell before.

    Raises:
        RequestError: it was trained with other values than the job has now.
    """
    path = f"cells/{cell.key}.json"
    if not folder.exists(path):
        return None
    found: dict[str, Any] = folder.read_json(path)
    if found["fingerprint"] != (fingerprint(cell.job) if cell.job else ""):
        raise RequestError(
            f"cell {cell.key} was trained with other values",
            where=folder.uri(path),
            hint="give the study another name, or undo the change",
        )
    return found


def _check_same_study(job: StudyJob, folder: Storage) -> None:
    """The first launch writes down what all cells share; later ones may only add cells."""
    path = "shared.json"
    mine = {key: value for key, value in identity(job).items() if key.startswith(_SHARED)}
    if not folder.exists(path):
        folder.write_json(path, mine)
        return
    changed = differences(folder.read_json(path), mine, present_names(job))
    if changed:
        raise RequestError(
            f"study '{job.name}' exists with other values: {'; '.join(changed[:3])}",
            where=folder.uri(path),
            hint="give it another name, or undo the change",
        )
