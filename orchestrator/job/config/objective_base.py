"""What every objective states about itself, so that no other module needs to know which it is.

A built-in objective is one folder, `orchestrator/jepa/objectives/NAME`, whose `config.py` holds a
subclass of `BuiltInObjective`. The `Config` of a user's own objective may be a subclass of
`ObjectiveConfig`; what it does not state has the defaults below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.errors import RequestError
from orchestrator.job.config.base import CustomComponent, Section, field_error
from orchestrator.job.config.masks import check_mask
from orchestrator.job.config.model import (
    AnyEncoder,
    ConvEncoderConfig,
    PCAEncoderConfig,
    PredictorConfig,
    ViTConfig,
    encoder_preset,
    encodes_timesteps_separately,
)

if TYPE_CHECKING:
    from orchestrator.job.config.train import TrainJob

TeacherType = Literal["none", "ema", "frozen", "fitted"]
"""Where targets come from: the trained encoder itself or the data, a moving average of the encoder,
a model that was trained before, or codes that are fitted to the data before the first step."""

PredictionTarget = Literal["features", "normalized_features", "pixels"]
"""What a saved predictor predicts: the encoder's features, those normed per token, or patches of
pixels normed by their own mean and deviation."""

TEACHER_HINTS = (
    "look at the teacher's own features (orchestrator models show)",
    "lower optim.lr",
)
"""Against collapse, where a frozen teacher gives the targets."""

EMA_HINTS = ("raise objective.ema", "lower optim.lr")
"""Against collapse, where a moving average gives the targets."""

SIGREG_HINTS = ("raise objective.weight", "raise objective.statistic_clips")
"""Against collapse, where SIGReg alone holds the features apart."""


class ObjectiveConfig(Section):
    """Keys and capabilities of an objective. The defaults are those of a user's own objective that
    states nothing."""

    title: ClassVar[str] = ""
    """Name that a person reads. Default: the kind."""

    cost_class: ClassVar[str | None] = None
    """Import path of an `orchestrator.estimate.objective_cost.ObjectiveCost`, which counts
    parameters, FLOPs and bytes. Default: unknown, and `plan` says so."""

    predictor_builder: ClassVar[str | None] = None
    """Import path of a function `(ModelConfig, encoder, num_mask_tokens) -> predictor` that builds
    the predictor of a saved model. Default: a saved model keeps its encoder alone."""

    encoder_builder: ClassVar[str | None] = None
    """Import path of a function `(ModelConfig) -> encoder` for a saved model. Default: the encoder
    of the job's `model` section."""

    plan_rollout: ClassVar[str | None] = None
    """Import path of a function `(predictor, features, past_actions, action_plans) -> features`
    that predicts many plans from one past. Default: each plan is predicted by itself."""

    predicts_masked_tokens: ClassVar[bool] = False
    """Whether hidden tokens are predicted from those seen, by a predictor with mask tokens."""

    autoregressive: ClassVar[bool] = False
    """Whether every timestep of a clip is predicted from those before it."""

    reads_actions: ClassVar[bool] = False
    """Whether the predictor reads actions where the job has `data.actions`: it then has a method
    `rollout(features, actions, history)`, which takes states too where its attribute
    `actions_are_state_deltas` is true."""

    requires_actions: ClassVar[bool] = False
    """Whether nothing can be predicted without them."""

    teacher_type: ClassVar[TeacherType] = "none"

    trains_encoder: ClassVar[bool] = True
    """Whether the encoder is trained. If not, a saved model's encoder is the teacher."""

    encodes_single_frames: ClassVar[bool] = False
    """Whether a timestep is one frame, whatever `model.tubelet` is."""

    one_token_per_timestep: ClassVar[bool] = False
    """Whether a saved model has one token a timestep instead of one a patch."""

    single_clip_shape: ClassVar[bool] = True
    """Whether all clips of a training must have the same frames and size."""

    reads_feature_layers: ClassVar[bool] = True
    """Whether `model.levels` is read."""

    prediction_target: ClassVar[PredictionTarget] = "features"

    huggingface_exportable: ClassVar[bool] = False
    """Whether a saved model has an encoder and a predictor as Hugging Face's `VJEPA2Model`."""

    features_start_collapsed: ClassVar[bool] = False
    """Whether features begin close together and are driven apart: early signs may pass."""

    collapse_hints: ClassVar[tuple[str, str]] = ("lower optim.lr", "lengthen optim.warmup")
    """What to do about collapsed features, first and second."""

    @property
    def mask_configs(self) -> tuple[Any, ...]:
        """Masks of one step; () where an objective has no key `masks`."""
        return tuple(getattr(self, "masks", ()))

    @property
    def horizon_key(self) -> str | None:
        """The key that says how many timesteps ahead are predicted, where there is one."""
        return None

    @property
    def pretrained_teacher(self) -> PretrainedTeacherObjective | None:
        """The keys of a teacher that was trained before, where `teacher_type` is `frozen`."""
        return None

    @property
    def teacher_digest(self) -> str | None:
        """Digest of the frozen or fitted teacher's weights, once it is known."""
        return None

    @classmethod
    def keeps_predictor(cls) -> bool:
        """Whether a saved model can predict."""
        return cls.predictor_builder is not None

    @classmethod
    def predicts_without_actions(cls) -> bool:
        """Whether a saved model can predict without being given actions."""
        return cls.keeps_predictor() and not cls.requires_actions

    @classmethod
    def tubelet_of(cls, tubelet: int) -> int:
        """Frames of a timestep in a job with `model.tubelet`."""
        return 1 if cls.encodes_single_frames else tubelet

    def describe_predictor(self, predictor: PredictorConfig) -> str:
        """A few words about the predictor's shape."""
        return f"{predictor.depth} blocks of {predictor.dim}, {predictor.heads} heads"

    def check(self, job: TrainJob) -> None:
        """Refuse a job that this objective cannot train. Subclasses add their own checks.

        Raises:
            PydanticCustomError: at the key that is wrong.
        """
        self._check_encoder(job)
        if self.autoregressive:
            self._check_timesteps(job)
        if job.model.levels and not self.reads_feature_layers:
            text = f"{job.objective.kind} reads the last block alone"
            raise field_error("model.levels", f"{text}; leave it out, or objective.kind: vjepa21")

    def check_masks(self, job: TrainJob, grid: tuple[int, int, int], where: str = "") -> None:
        """Refuse masks that do not fit a grid of tokens; a user's own masks check themselves.

        Raises:
            PydanticCustomError: at the mask.
        """
        for number, mask in enumerate(self.mask_configs):
            if isinstance(mask, CustomComponent):
                continue
            try:
                check_mask(mask, grid)
            except RequestError as error:
                text = f"{where}{error.what}; {error.hint}"
                raise field_error(f"objective.masks.{number}", text) from None

    def _check_encoder(self, job: TrainJob) -> None:
        encoder, kind = job.model.encoder, job.objective.kind
        separate = encodes_timesteps_separately(encoder)
        if isinstance(encoder, PCAEncoderConfig) != (self.teacher_type == "fitted"):
            text = f"{kind} does not go with an encoder '{encoder.kind}'"
            raise field_error(
                "model.encoder.kind", f"{text}: codes are for objective.kind: dynamics alone"
            )
        if isinstance(encoder, ConvEncoderConfig) and self.predicts_masked_tokens:
            text = f"'conv' leaves nothing for the masks of {kind} to hide"
            raise field_error(
                "model.encoder.kind", f"{text}; write vit, or objective.kind: lewm or causal"
            )
        if separate and self.predicts_masked_tokens:
            text = f"'moment' leaves nothing for the masks of {kind} to hide from"
            raise field_error(
                "model.encoder.attention", f"{text}; write clip, or objective.kind: causal"
            )
        if self.autoregressive and isinstance(encoder, ViTConfig) and not separate:
            text = "'clip' lets a moment see the ones it is to predict; write moment"
            raise field_error("model.encoder.attention", text)

    def _check_timesteps(self, job: TrainJob) -> None:
        timesteps, key = job.grid[0], self.horizon_key
        if timesteps < 2:
            text = f"{job.data.frames} frames are one moment, and nothing comes after it"
            raise field_error("data.frames", f"{text}; raise it, or lower model.tubelet")
        if key is not None and getattr(self, key) >= timesteps:
            text = f"{getattr(self, key)} moments ahead of a clip of {timesteps}"
            raise field_error(f"objective.{key}", f"{text}; lower it, or raise data.frames")


MODEL_CAPABILITIES = (
    "predictor_builder",
    "encoder_builder",
    "plan_rollout",
    "predicts_masked_tokens",
    "autoregressive",
    "reads_actions",
    "requires_actions",
    "encodes_single_frames",
    "one_token_per_timestep",
    "prediction_target",
)
"""Those that a saved model needs."""


class UnstatedObjective(ObjectiveConfig):
    """A user's own objective whose `Config` is no `ObjectiveConfig`: only its masks are known."""

    masks: tuple[Any, ...] = ()


class BuiltInObjective(ObjectiveConfig):
    """An objective of `orchestrator.jepa.objectives`, named by its kind."""

    kind: str

    objective_class: ClassVar[str]
    """Import path of the trained module, made by `Name(config, job)`."""

    single_clip_shape: ClassVar[bool] = False
    reads_feature_layers: ClassVar[bool] = False


class PretrainedTeacherObjective(BuiltInObjective):
    """An objective whose targets come from a model that was trained before."""

    teacher_type: ClassVar[TeacherType] = "frozen"
    collapse_hints: ClassVar[tuple[str, str]] = TEACHER_HINTS

    teacher: str = Field(min_length=1)
    """A trained model: `models:/NAME@alias`, `runs:/ID/model` or a folder with its files."""

    encoder: AnyEncoder | None = None
    """The teacher's encoder: a size or its numbers. Default: read from the teacher when the
    training begins; written, it is compared with it, and `plan` can count it."""

    digest: str | None = None
    """The teacher's weights, 16 hex digits. Default: those that are found when the training
    begins; a run that goes on refuses any others."""

    @model_validator(mode="before")
    @classmethod
    def _with_encoder_preset(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("encoder"), str):
            return {**data, "encoder": encoder_preset(data["encoder"], "objective.encoder")}
        return data

    @property
    def pretrained_teacher(self) -> PretrainedTeacherObjective:
        return self

    @property
    def teacher_digest(self) -> str | None:
        return self.digest


def check_statistic_clips(job: TrainJob, clips: int | None) -> None:
    """Refuse sets of clips that do not divide the global batch.

    Raises:
        PydanticCustomError: they do not.
    """
    batch = job.scale.global_batch
    if clips is not None and batch % clips:
        text = f"{clips} clips do not divide scale.global_batch {batch}"
        raise field_error("objective.statistic_clips", f"{text}: every set must be as large")
