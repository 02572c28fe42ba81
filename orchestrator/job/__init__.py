"""Job files: their schema, their reading, their identity."""

from orchestrator.job.embed import EmbedJob
from orchestrator.job.evaluate import EvaluateJob
from orchestrator.job.fingerprint import (
    differences,
    fingerprint,
    given_dict,
    identity,
    job_dict,
)
from orchestrator.job.loading import Job, build_job, load_job
from orchestrator.job.masks import mask_counts
from orchestrator.job.model import (
    VJEPA2,
    VJEPA21,
    Causal,
    Encoder,
    Future,
    LeJEPA,
    Model,
    MultiBlock,
    Pixels,
    Predictive,
    Predictor,
    Supervised,
)
from orchestrator.job.pack import Encode, PackJob, WeightedSource
from orchestrator.job.parts import import_part, part_config
from orchestrator.job.schema import job_schema
from orchestrator.job.study import StudyJob
from orchestrator.job.train import CropFlip, Data, Optim, Scale, TrainJob
from orchestrator.job.tune import TuneJob

__all__ = [
    "VJEPA2",
    "VJEPA21",
    "Causal",
    "CropFlip",
    "Data",
    "EmbedJob",
    "Encode",
    "Encoder",
    "EvaluateJob",
    "Future",
    "Job",
    "LeJEPA",
    "Model",
    "MultiBlock",
    "Optim",
    "PackJob",
    "Pixels",
    "Predictive",
    "Predictor",
    "Scale",
    "StudyJob",
    "Supervised",
    "TrainJob",
    "TuneJob",
    "WeightedSource",
    "build_job",
    "differences",
    "fingerprint",
    "given_dict",
    "identity",
    "import_part",
    "job_dict",
    "job_schema",
    "load_job",
    "mask_counts",
    "part_config",
]
