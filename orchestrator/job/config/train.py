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

from orchestrator.job.config.base import Name, Section, field_error
from orchestrator.job.config.callbacks import AnyCallback
from orchestrator.job.config.data import ClipSpec, Data
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.job.config.former_names import FormerName
from orchestrator.job.config.mixture_checks import check_mixture
from orchestrator.job.config.model import Model
from orchestrator.job.config.objective import (
    AnyObjective,
    default_objective,
    objective_config,
)
from orchestrator.job.config.objective_base import ObjectiveConfig
from orchestrator.job.config.scale import Scale

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

    objective: AnyObjective = default_objective()
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

    callbacks: tuple[AnyCallback, ...] = ()
    """Your own code beside the training step: classes that derive from
    `orchestrator.training.callbacks.base.Callback`, by import path
    (`[mylab.hooks:Mine, {kind: mylab.hooks:Mine, every: 10}]`), called in this order."""

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
        tubelet = self.objective_config.tubelet_of(self.model.tubelet)
        if self.data.frames % tubelet:
            raise field_error(
                "data.frames", f"{self.data.frames} does not divide by model.tubelet {tubelet}"
            )
        self.objective_config.check_masks(self, self.grid)
        return self

    @model_validator(mode="after")
    def _check_objective(self) -> TrainJob:
        self.objective_config.check(self)
        return self

    @model_validator(mode="after")
    def _sources_can_be_mixed(self) -> TrainJob:
        check_mixture(self)
        return self

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
    def objective_config(self) -> ObjectiveConfig:
        """What the objective states about itself, built in or a user's own.

        Raises:
            RequestError: a user's own cannot be imported or refuses its keys.
        """
        return objective_config(self.objective)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens of a clip of data's own shape along time, height and width."""
        return self.token_grid_of((self.data.frames, self.data.size))

    def token_grid_of(self, bucket: tuple[int, int]) -> tuple[int, int, int]:
        """Tokens of a bucket's clip along time, height and width."""
        frames, size = bucket
        side = size // self.model.patch
        return frames // self.objective_config.tubelet_of(self.model.tubelet), side, side
