"""Job files: their schema, their reading, their identity."""

from typing import TYPE_CHECKING, Any

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
from orchestrator.job.config.objective import OBJECTIVES, import_path, objective_config
from orchestrator.job.config.objective_base import BuiltInObjective, ObjectiveConfig
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
    present_names,
)
from orchestrator.job.loading.custom_components import component_config, import_component
from orchestrator.job.loading.load import Job, build_job, load_job, require_kind
from orchestrator.job.schema_listing import job_schema

if TYPE_CHECKING:
    from orchestrator.jepa.objectives.causal.config import CausalPrediction
    from orchestrator.jepa.objectives.dynamics.config import LatentDynamics
    from orchestrator.jepa.objectives.frozen.config import FrozenTeacher
    from orchestrator.jepa.objectives.lejepa.config import LeJEPA
    from orchestrator.jepa.objectives.lewm.config import LeWM
    from orchestrator.jepa.objectives.pixels.config import PixelPrediction
    from orchestrator.jepa.objectives.supervised.config import Supervised
    from orchestrator.jepa.objectives.vjepa2.config import VJEPA2
    from orchestrator.jepa.objectives.vjepa2ac.config import VJEPA2AC
    from orchestrator.jepa.objectives.vjepa21.config import VJEPA21
else:
    _OBJECTIVE_CONFIGS = {path.partition(":")[2]: path for path in OBJECTIVES.values()}

    def __getattr__(name: str) -> Any:
        """Configs of objectives by name; their modules are above this package."""
        if name not in _OBJECTIVE_CONFIGS:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        return import_path(_OBJECTIVE_CONFIGS[name])


__all__ = [
    "VJEPA2",
    "VJEPA2AC",
    "VJEPA21",
    "ActionStatistics",
    "Actions",
    "Bucket",
    "BuiltInObjective",
    "CausalPrediction",
    "ClipSpec",
    "ConvEncoderConfig",
    "CropFlip",
    "Data",
    "EmbedJob",
    "EvaluateJob",
    "FrozenTeacher",
    "Future",
    "Job",
    "LatentDynamics",
    "LeJEPA",
    "LeWM",
    "MixedSource",
    "Model",
    "MultiBlock",
    "ObjectiveConfig",
    "Optim",
    "PCAEncoderConfig",
    "PackJob",
    "PipelineJob",
    "PixelPrediction",
    "PredictorConfig",
    "PromoteJob",
    "Scale",
    "Stage",
    "StageJob",
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
    "objective_config",
    "present_names",
    "require_kind",
    "require_single_clip_spec",
]
