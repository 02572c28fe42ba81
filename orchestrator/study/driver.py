"""`kind: study`: train and probe every cell, then say what the curves allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RequestError
from orchestrator.jepa.model_files import ModelConfig, load_folder, random_model
from orchestrator.job import StudyJob, TrainJob, differences, fingerprint, identity
from orchestrator.job.config.study import Cell
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.study.report import page
from orchestrator.study.state_probe import Shown, probe_scores, shown
from orchestrator.study.table import tabulate
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.results.studies import adopt, open_study, record_study
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import tracking_uri

REPORT, RESULT = "report.html", "study.json"
_SHARED = ("data.", "model.", "optim.", "scale.", "probe.")


@dataclass(frozen=True)
class Trained:
    """What a cell's training left."""

    model_uri: str
    run_id: str


@dataclass(frozen=True)
class Studied:
    """What a study leaves."""

    result: dict[str, Any]
    tracking: RunRef
    report: str
    """Path or URI of the page."""


def run_study(
    job: StudyJob,
    progress: Progress,
    train: Callable[[TrainJob], Trained],
    parent: str | None = None,
) -> Studied:
    """Measure every cell that is not measured yet; the report is in `studies/NAME`.

    `train` runs one training job to its end, or goes on with it. A cell is kept as
    `studies/NAME/cells/CELL.json` as soon as it is measured. `parent` is the MLflow run of the
    pipeline whose stage the job is.

    Raises:
        RequestError: a cell of this name was measured with other values.
        JobFailed: a training stopped, or MLflow did not take the result.
    """
    storage = Storage(job.storage)
    folder = storage.sub("studies", job.name)
    _refuse_another(job, folder)
    tracking = open_study(job, storage, folder, parent)
    cells = list(job.cells())
    known = {cell.key: _known(folder, cell) for cell in cells}
    videos: dict[str, tuple[Shown, Shown]] = {}
    for number, cell in enumerate(cells):
        progress.update("study", number, len(cells), {"cell": cell.key})
        if known[cell.key] is not None:
            continue
        if cell.background not in videos:
            videos = {cell.background: shown(job, cell.background)}
        found = _measure(job, cell, videos[cell.background], storage, tracking, train)
        folder.write_json(f"cells/{cell.key}.json", found)
        known[cell.key] = found
        scores = ", ".join(f"{name} {value:.3f}" for name, value in found["scores"].items())
        progress.message(f"{number + 1}/{len(cells)} {cell.key}: R2 of {scores}")
    progress.update("study", len(cells), len(cells))
    result = tabulate(job, [(cell, known[cell.key] or {}) for cell in cells])
    text = page(result)
    folder.write_json(RESULT, result)
    folder.write_bytes(REPORT, text.encode())
    record_study(tracking, job, result, text)
    return Studied(result, tracking, folder.uri(REPORT))


def _measure(
    job: StudyJob,
    cell: Cell,
    videos: tuple[Shown, Shown],
    storage: Storage,
    tracking: RunRef,
    train: Callable[[TrainJob], Trained],
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
        scores = probe_scores(random_model(config, cell.seed), *videos)
        return {"key": cell.key, "scores": scores, "fingerprint": "", "run": ""}
    trained = train(cell.job)
    adopt(tracking, trained.run_id)
    server = tracking_uri(job.track.uri, storage)
    with model_folder(trained.model_uri, tracking=server) as where:
        scores = probe_scores(load_folder(where), *videos)
    return {
        "key": cell.key,
        "scores": scores,
        "fingerprint": fingerprint(cell.job),
        "run": trained.run_id,
    }


def _known(folder: Storage, cell: Cell) -> dict[str, Any] | None:
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
            mend="give the study another name, or undo the change",
        )
    return found


def _refuse_another(job: StudyJob, folder: Storage) -> None:
    """The first launch writes down what all cells share; later ones may only add cells."""
    path = "shared.json"
    mine = {key: value for key, value in identity(job).items() if key.startswith(_SHARED)}
    if not folder.exists(path):
        folder.write_json(path, mine)
        return
    changed = differences(folder.read_json(path), mine)
    if changed:
        raise RequestError(
            f"study '{job.name}' exists with other values: {'; '.join(changed[:3])}",
            where=folder.uri(path),
            mend="give it another name, or undo the change",
        )
