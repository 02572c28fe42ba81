"""Job files: their schema, their reading, their identity."""

from orchestrator.job.act import Act, Statistics
from orchestrator.job.data import Bucket, ClipSpec, CropFlip, Data, MixedSource
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
from orchestrator.job.masks import Future, MultiBlock, mask_counts
from orchestrator.job.mixture import of_one_kind
from orchestrator.job.model import Codes, Conv, Encoder, Model, Predictor, reads_moments
from orchestrator.job.objective import (
    VJEPA2,
    VJEPA2AC,
    VJEPA21,
    Causal,
    Dynamics,
    Fixed,
    Forwards,
    Frozen,
    Gaussian,
    LeJEPA,
    LeWM,
    Pixels,
    Predictive,
    StateReading,
    Supervised,
    Taught,
)
from orchestrator.job.pack import Encode, PackJob, WeightedSource
from orchestrator.job.parts import import_part, part_config
from orchestrator.job.pipeline import PipelineJob, Stage, StageJob
from orchestrator.job.promote import PromoteJob
from orchestrator.job.scale import Scale
from orchestrator.job.schema import job_schema
from orchestrator.job.study import StudyJob
from orchestrator.job.train import Optim, TrainJob
from orchestrator.job.tune import TuneJob

__all__ = [
    "VJEPA2",
    "VJEPA2AC",
    "VJEPA21",
    "Act",
    "Bucket",
    "Causal",
    "ClipSpec",
    "Codes",
    "Conv",
    "CropFlip",
    "Data",
    "Dynamics",
    "EmbedJob",
    "Encode",
    "Encoder",
    "EvaluateJob",
    "Fixed",
    "Forwards",
    "Frozen",
    "Future",
    "Gaussian",
    "Job",
    "LeJEPA",
    "LeWM",
    "MixedSource",
    "Model",
    "MultiBlock",
    "Optim",
    "PackJob",
    "PipelineJob",
    "Pixels",
    "Predictive",
    "Predictor",
    "PromoteJob",
    "Scale",
    "Stage",
    "StageJob",
    "StateReading",
    "Statistics",
    "StudyJob",
    "Supervised",
    "Taught",
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
    "of_one_kind",
    "part_config",
    "reads_moments",
]
