"""Job files: their schema, their reading, their identity."""

from orchestrator.job.config.actions import Act, Statistics
from orchestrator.job.config.data import Bucket, ClipSpec, CropFlip, Data, MixedSource
from orchestrator.job.config.embed import EmbedJob
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.job.config.masks import Future, MultiBlock, mask_counts
from orchestrator.job.config.mixture_checks import of_one_kind
from orchestrator.job.config.model import Codes, Conv, Encoder, Model, Predictor, reads_moments
from orchestrator.job.config.objective import (
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
from orchestrator.job.config.pack import Encode, PackJob, WeightedSource
from orchestrator.job.config.pipeline import PipelineJob, Stage, StageJob
from orchestrator.job.config.promote import PromoteJob
from orchestrator.job.config.scale import Scale
from orchestrator.job.config.study import StudyJob
from orchestrator.job.config.train import Optim, TrainJob
from orchestrator.job.config.tune import TuneJob
from orchestrator.job.fingerprint import (
    differences,
    fingerprint,
    given_dict,
    identity,
    job_dict,
)
from orchestrator.job.loading.custom_components import import_part, part_config
from orchestrator.job.loading.load import Job, build_job, load_job
from orchestrator.job.schema_listing import job_schema

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
