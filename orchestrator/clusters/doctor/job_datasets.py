"""Which datasets a job would read, and whether they are packed already."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import OrchestratorError
from orchestrator.job import Job, TrainJob
from orchestrator.job.config.stage_references import STAGE_URI_PREFIX
from orchestrator.storage import Storage


@dataclass(frozen=True)
class JobDatasets:
    """URIs of what is packed, sources that are not, or why that cannot be told."""

    packed: tuple[str, ...] = ()
    unpacked_sources: tuple[str, ...] = ()
    error: str = ""


def find_datasets(job: Job | None, storage: Storage) -> JobDatasets:
    """The datasets of a job that trains; nothing is packed."""
    training = job.training if job else None
    if training is None:
        return JobDatasets()
    from orchestrator.data.packing.prepare import sources_of

    packed, unpacked = [], []
    try:
        for source in sources_of(training):
            if source.uri.startswith(STAGE_URI_PREFIX):
                continue  # a stage before it packs that
            uri = _packed(training, source.uri, storage.subfolder("datasets"))
            if uri is None:
                unpacked.append(source.uri)
            else:
                packed.append(uri)
    except OrchestratorError as error:
        where = f"{error.where}: " if error.where else ""
        return JobDatasets(error=f"{where}{error.what}")
    return JobDatasets(tuple(packed), tuple(unpacked))


def _packed(job: TrainJob, uri: str, datasets: Storage) -> str | None:
    """Where the dataset of a source is; None where it is not packed yet."""
    from orchestrator.data.packing.dataset import dataset_folder, is_complete
    from orchestrator.data.sources.base import InPlaceSource, PackedSource
    from orchestrator.data.sources.open import open_source

    source = open_source(uri)
    if isinstance(source, PackedSource):
        return source.uri
    in_place = isinstance(source, InPlaceSource)
    units, encode = source.units(), job.data.encode
    folder, _ = dataset_folder(datasets, source.uri, units, encode, in_place=in_place)
    return folder.root if is_complete(folder) else None
