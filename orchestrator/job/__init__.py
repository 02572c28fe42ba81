"""Job files: their schema, their reading, their identity."""

from orchestrator.job.config.actions import Actions, ActionStatistics
from orchestrator.job.config.data import Bucket, ClipSpec, CropFlip, Data, MixedSource
from orchestrator.job.config.embed import EmbedJob
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.job.config.masks import Future, MultiBlock, mask_counts
from orchestrator.job.config.mixture_checks import require_single_clip_spec
from orchestrator.job.config.model import (
    ConvEncoderConfig,
    Model,
    PCAEncoderConfig,
    PredictorConfig,
    ViTConfig,
    encodes_timesteps_separately,
)
from orchestrator.job.config.objective import (
    VJEPA2,
    VJEPA2AC,
    VJEPA21,
    Autoregressive,
    CausalPrediction,
    FrozenTeacher,
    HasFrozenTargets,
    HasPretrainedTeacher,
    LatentDynamics,
    LeJEPA,
    LeWM,
    MaskedPrediction,
    PixelPrediction,
    SIGRegObjective,
    StateSupervision,
    Supervised,
)
from orchestrator.job.config.pack import PackJob, TranscodeConfig, WeightedSource
from orchestrator.job.config.pipeline import PipelineJob, Stage, StageJob
from orchestrator.job.config.promote import PromoteJob
from orchestrator.job.config.scale import Scale
from orchestrator.job.config.study import StudyJob
from orchestrator.job.config.train import Optim, TrainJob
from orchestrator.job.config.tune import TuneJob
from orchestrator.job.fingerprint import (
    differences,
    explicit_job_dict,
    fingerprint,
    identity,
    job_dict,
)
from orchestrator.job.loading.custom_components import component_config, import_component
from orchestrator.job.loading.load import Job, build_job, load_job, require_kind
from orchestrator.job.schema_listing import job_schema

__all__ = [
    "VJEPA2",
    "VJEPA2AC",
    "VJEPA21",
    "ActionStatistics",
    "Actions",
    "Autoregressive",
    "Bucket",
    "CausalPrediction",
    "ClipSpec",
    "ConvEncoderConfig",
    "CropFlip",
    "Data",
    "EmbedJob",
    "EvaluateJob",
    "FrozenTeacher",
    "Future",
    "HasFrozenTargets",
    "HasPretrainedTeacher",
    "Job",
    "LatentDynamics",
    "LeJEPA",
    "LeWM",
    "MaskedPrediction",
    "MixedSource",
    "Model",
    "MultiBlock",
    "Optim",
    "PCAEncoderConfig",
    "PackJob",
    "PipelineJob",
    "PixelPrediction",
    "PredictorConfig",
    "PromoteJob",
    "SIGRegObjective",
    "Scale",
    "Stage",
    "StageJob",
    "StateSupervision",
    "StudyJob",
    "Supervised",
    "TrainJob",
    "TranscodeConfig",
    "TuneJob",
    "ViTConfig",
    "WeightedSource",
    "build_job",
    "component_config",
    "differences",
    "encodes_timesteps_separately",
    "explicit_job_dict",
    "fingerprint",
    "identity",
    "import_component",
    "job_dict",
    "job_schema",
    "load_job",
    "mask_counts",
    "require_kind",
    "require_single_clip_spec",
]
