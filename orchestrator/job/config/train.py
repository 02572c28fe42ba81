"""The `train` job: video in, a trained and registered world model out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    ByteSize,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from orchestrator.errors import RequestError
from orchestrator.job.config.base import CustomComponent, Name, Section, field_error
from orchestrator.job.config.data import ClipSpec, Data
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.job.config.former_names import FormerName
from orchestrator.job.config.masks import Future, MultiBlock, check_mask
from orchestrator.job.config.mixture_checks import check_mixture
from orchestrator.job.config.model import (
    ConvEncoderConfig,
    Model,
    PCAEncoderConfig,
    ViTConfig,
    encodes_timesteps_separately,
)
from orchestrator.job.config.objective import (
    VJEPA2,
    VJEPA2AC,
    VJEPA21,
    AnyObjective,
    Autoregressive,
    CausalPrediction,
    DrawsMasks,
    LatentDynamics,
    LeWM,
    MaskedPrediction,
    SIGRegObjective,
)
from orchestrator.job.config.scale import Scale

CONV_NORM_GROUPS = 8
"""Groups of channels that norms of convolutions are over (`jepa/encoders/convolutional.py`)."""

Beta = Annotated[float, Field(ge=0, lt=1)]


class Optim(Section):
    """AdamW with its schedules."""

    steps: PositiveInt
    """Optimizer steps in all."""

    lr: PositiveFloat = 5.25e-4
    """Peak learning rate."""

    lr_start: NonNegativeFloat | None = None
    """Learning rate at step 0 of the warm-up. Default: lr / 5."""

    lr_end: NonNegativeFloat = 1e-6
    """Learning rate at the last step of the decay."""

    warmup: NonNegativeInt = 0
    """Steps of linear warm-up."""

    decay: NonNegativeInt = 0
    """Steps of final decay (for `cosine`: ignored, all of it decays)."""

    schedule: Literal["warmup-constant-decay", "cosine"] = "warmup-constant-decay"
    """Shape of the learning rate after the warm-up."""

    weight_decay: NonNegativeFloat = 0.04
    """Weight decay; biases and norms have none."""

    weight_decay_end: NonNegativeFloat | None = None
    """Weight decay at the last step, reached along a cosine. Default: constant."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's betas."""

    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""

    clip: NonNegativeFloat = 0.0
    """Largest gradient norm; 0: no clipping."""

    spike_limit: NonNegativeFloat = 5.0
    """A step whose loss is above this many times the median of recent ones is not applied;
    0: every step is."""

    @model_validator(mode="after")
    def _phases_fit(self) -> Optim:
        if self.warmup + self.decay > self.steps:
            raise ValueError(f"warmup {self.warmup} + decay {self.decay} exceed steps {self.steps}")
        return self


EVAL_METRIC_PREFIX = "eval/"
"""Prefix of the metrics of evaluations while training: `eval/NAME/quad_accuracy`."""


class Checkpoint(Section):
    """When the training state is saved and which saves are kept."""

    every: PositiveInt = 200
    """Steps between checkpoints; the last step is always saved, and every one to be evaluated."""

    keep_last: PositiveInt = 2
    """Newest checkpoints kept."""

    keep_best: NonNegativeInt = 0
    """Best checkpoints kept beside them."""

    keep_every: PositiveInt | None = None
    """Checkpoints at multiples of this step are kept for good."""

    max_bytes: ByteSize | None = Field(None, gt=0)
    """Most that all checkpoints of the run may take, the one being written included; older ones
    go first, even if another rule would keep them. Room for two is the least."""

    best: str = "rankme"
    """Metric that ranks checkpoints (a raw EMA loss is lowest for a collapsed model)."""

    mode: Literal["max", "min"] = "max"
    """Whether more of it is better."""

    @model_validator(mode="after")
    def _known_when_it_is_saved(self) -> Checkpoint:
        if self.best.startswith(EVAL_METRIC_PREFIX):
            text = f"'{self.best}' comes after the checkpoint was saved, and cannot rank it"
            raise field_error(
                "checkpoint.best", f"{text}; write rankme, feature_std or another of health"
            )
        return self


class TrainingEvaluation(Section):
    """Checkpoints that are judged while training goes on, beside the workers."""

    every: PositiveInt
    """Steps from one evaluated checkpoint to the next; the last one always is."""

    job: EvaluateJob
    """A job file of kind `evaluate`, its path from the working directory, or its keys in place. Its
    `model`, `storage` and `track` give way to the training's; `cpus` is what its task takes where
    the workers leave as much, and it shares their cores where they do not."""

    overrides: Annotated[dict[str, Any], FormerName("set")] = Field({})
    """Keys of that job that are others here: `{suite.quads: 4, random: 0}`."""

    def is_due(self, step: int, last: int) -> bool:
        """Whether the state after `step` of `last` steps is judged."""
        return step % self.every == 0 or step == last


class Track(Section):
    """What MLflow remembers."""

    uri: str | None = None
    """Tracking server. Default: MLFLOW_TRACKING_URI, else sqlite in the storage."""

    experiment: str = "default"
    """MLflow experiment."""

    register_as: Name | None = Field(None, alias="register")
    """Registered model that the result becomes a version of, alias `candidate`."""

    every: PositiveInt = 10
    """Steps between rows of metrics."""

    pictures: NonNegativeInt = 500
    """Steps between pictures of masks and features; 0: only at the end."""


class TrainJob(Section):
    """Train a world model and register it."""

    kind: Literal["train"]
    """The job's kind."""

    name: Name
    """An identity: the same name continues the same run, --fresh starts another."""

    storage: str = ".orchestrator"
    """Root of everything the job leaves: a local folder, s3:// or gs://."""

    seed: NonNegativeInt = 0
    """Seed of the order, the augmentation, the masks and the initial weights."""

    data: Data
    """Which video."""

    model: Model = Model()
    """Which model."""

    objective: AnyObjective = VJEPA2()
    """What it learns to predict."""

    optim: Optim
    """How it is optimised."""

    scale: Scale = Scale()
    """How the step is spread over workers."""

    checkpoint: Checkpoint = Checkpoint()
    """What is saved."""

    track: Track = Track()
    """What is remembered."""

    evaluate: tuple[TrainingEvaluation, ...] = ()
    """What is judged on the way. One at a time and never waited for: while one goes on, only the
    newest checkpoint waits. With --local it is done between steps."""

    @model_validator(mode="after")
    def _evaluations_have_names(self) -> TrainJob:
        names = [one.job.name for one in self.evaluate]
        for i, name in enumerate(names):
            if name in names[:i]:
                text = f"'{name}' is the name of an evaluation before it; give it another with set"
                raise field_error(f"evaluate.{i}", text)
        return self

    @model_validator(mode="after")
    def _check_token_grid(self) -> TrainJob:
        if self.data.size % self.model.patch:
            raise field_error(
                "data.size", f"{self.data.size} does not divide by model.patch {self.model.patch}"
            )
        by_frame = isinstance(self.objective, VJEPA2AC)
        if self.data.frames % self.model.tubelet and not by_frame:
            raise field_error(
                "data.frames",
                f"{self.data.frames} does not divide by model.tubelet {self.model.tubelet}",
            )
        if isinstance(self.objective, DrawsMasks):
            for i, mask in enumerate(self.objective.masks):
                if not isinstance(mask, CustomComponent):
                    self._check_mask(i, mask)
        return self

    @model_validator(mode="after")
    def _check_autoregressive(self) -> TrainJob:
        encoder, objective = self.model.encoder, self.objective
        moments = encodes_timesteps_separately(encoder)
        if isinstance(encoder, PCAEncoderConfig) != isinstance(objective, LatentDynamics):
            text = f"{objective.kind} does not go with an encoder '{encoder.kind}'"
            raise field_error(
                "model.encoder.kind", f"{text}: codes are for objective.kind: dynamics alone"
            )
        if isinstance(encoder, ConvEncoderConfig) and isinstance(objective, MaskedPrediction):
            text = f"'conv' leaves nothing for the masks of {objective.kind} to hide"
            raise field_error(
                "model.encoder.kind", f"{text}; write vit, or objective.kind: lewm or causal"
            )
        if moments and isinstance(objective, MaskedPrediction):
            text = f"'moment' leaves nothing for the masks of {objective.kind} to hide from"
            raise field_error(
                "model.encoder.attention", f"{text}; write clip, or objective.kind: causal"
            )
        if not isinstance(objective, Autoregressive):
            return self
        if isinstance(encoder, ViTConfig) and not moments:
            text = "'clip' lets a moment see the ones it is to predict; write moment"
            raise field_error("model.encoder.attention", text)
        if self.grid[0] < 2:
            text = f"{self.data.frames} frames are one moment, and nothing comes after it"
            raise field_error("data.frames", f"{text}; raise it, or lower model.tubelet")
        if (
            isinstance(objective, CausalPrediction | LatentDynamics)
            and objective.horizons >= self.grid[0]
        ):
            text = f"{objective.horizons} moments ahead of a clip of {self.grid[0]}"
            raise field_error("objective.horizons", f"{text}; lower it, or raise data.frames")
        if isinstance(objective, LeWM) and objective.rollout >= self.grid[0]:
            text = f"{objective.rollout} moments ahead of a clip of {self.grid[0]}"
            raise field_error("objective.rollout", f"{text}; lower it, or raise data.frames")
        if isinstance(objective, LeWM) and objective.inverse and not self.data.actions:
            raise field_error(
                "objective.inverse", "needs the actions of data.actions; add it, or write 0"
            )
        if isinstance(objective, LeWM) and objective.states and not self.data.actions:
            raise field_error(
                "objective.states", "needs the states of data.actions; add it, or leave it out"
            )
        if isinstance(objective, LeWM) and self.data.actions and self.model.tubelet != 1:
            text = f"actions lead from frame to frame, a moment has {self.model.tubelet}"
            raise field_error("model.tubelet", f"{text}; write 1 beside data.actions")
        return self

    @model_validator(mode="after")
    def _check_pca_encoder(self) -> TrainJob:
        encoder, objective = self.model.encoder, self.objective
        if not isinstance(encoder, PCAEncoderConfig) or not isinstance(objective, LatentDynamics):
            return self
        pixels = 3 * self.model.tubelet * self.model.patch**2
        if encoder.dim > pixels:
            text = f"{encoder.dim} numbers for a patch of {pixels}"
            raise field_error(
                "model.encoder.dim", f"{text}: a code is no longer than what it stands for"
            )
        if self.model.predictor.dim % CONV_NORM_GROUPS:
            text = f"{self.model.predictor.dim} channels in {CONV_NORM_GROUPS} groups"
            raise field_error(
                "model.predictor.dim", f"{text}: write a multiple of {CONV_NORM_GROUPS}"
            )
        if self.data.actions is not None:
            text = "dynamics is told no actions"
            raise field_error(
                "data.actions", f"{text}; leave it out, or write objective.kind: lewm"
            )
        return self

    @model_validator(mode="after")
    def _check_vjepa2ac(self) -> TrainJob:
        objective = self.objective
        if not isinstance(objective, VJEPA2AC):
            return self
        if self.data.actions is None:
            text = "vjepa2ac predicts what follows an action"
            raise field_error(
                "data.actions", f"{text}; write data.actions: {{actions: change}} or given"
            )
        if objective.rollout >= self.data.frames:
            text = f"{objective.rollout} frames ahead of the first of {self.data.frames}"
            raise field_error("objective.rollout", f"{text}; lower it, or raise data.frames")
        return self

    @model_validator(mode="after")
    def _levels_are_predicted(self) -> TrainJob:
        objective = self.objective
        if isinstance(objective, VJEPA21):
            first, steps = objective.context_ramp[0], self.optim.steps
            if first >= steps and objective.context_weight:
                text = f"begins at step {first}, and the training has {steps}"
                raise field_error(
                    "objective.context_ramp", f"{text}; begin earlier, or context_weight: 0"
                )
        elif self.model.levels and not isinstance(objective, VJEPA2AC | CustomComponent):
            text = f"{objective.kind} reads the last block alone"
            raise field_error("model.levels", f"{text}; leave it out, or objective.kind: vjepa21")
        return self

    @model_validator(mode="after")
    def _sources_can_be_mixed(self) -> TrainJob:
        check_mixture(self)
        return self

    @model_validator(mode="after")
    def _check_sigreg_clips(self) -> TrainJob:
        if (
            isinstance(self.objective, SIGRegObjective)
            and self.objective.statistic_clips is not None
        ):
            clips, whole = self.objective.statistic_clips, self.scale.global_batch
            if whole % clips:
                text = f"{clips} clips do not divide scale.global_batch {whole}"
                raise field_error(
                    "objective.statistic_clips", f"{text}: every set must be as large"
                )
        return self

    def _check_mask(self, i: int, mask: MultiBlock | Future) -> None:
        try:
            check_mask(mask, self.grid)
        except RequestError as error:
            raise field_error(f"objective.masks.{i}", f"{error.what}; {error.hint}") from None

    def is_checkpoint_step(self, step: int) -> bool:
        """Whether a checkpoint is due when `step` steps are done: what is judged is one too."""
        every = [self.checkpoint.every, *(one.every for one in self.evaluate)]
        return step == self.optim.steps or any(step % steps == 0 for steps in every)

    def with_clip_spec(self, spec: ClipSpec) -> TrainJob:
        """The job as it is for the clips of one of its sources, whose frames, rate and size are
        then data's own. It no longer names its sources: the order is that of the job itself."""
        update = {**spec._asdict(), "sources": ()}
        return self.model_copy(update={"data": self.data.model_copy(update=update)})

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens of a clip of data's own shape along time, height and width."""
        return self.token_grid_of((self.data.frames, self.data.size))

    def token_grid_of(self, bucket: tuple[int, int]) -> tuple[int, int, int]:
        """Tokens of a bucket's clip along time, height and width. V-JEPA 2-AC reads each frame by
        itself."""
        frames, size = bucket
        side = size // self.model.patch
        each = 1 if isinstance(self.objective, VJEPA2AC) else self.model.tubelet
        return frames // each, side, side
