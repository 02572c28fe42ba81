"""The keys of VICReg for video, and what it states about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from orchestrator.jepa.objectives.lewm.config import LeWM
from orchestrator.job.config.objective_base import BuiltInObjective

if TYPE_CHECKING:
    from orchestrator.job.config.train import TrainJob

SHARED_KEYS = {"hidden", "embed", "pool", "rollout", "statistic_clips"}
"""Keys that mean here what they mean in `lewm`."""


class VICReg(BuiltInObjective):
    """VICReg for video with actions: one embedding a timestep, the next ones predicted, variance
    and covariance against collapse.

    Sources: variance and covariance terms, VICReg (arXiv 2105.04906, section 4); temporal
    similarity and inverse dynamics beside them, PLDM (arXiv 2502.14819); the default weights are
    those of the action-conditioned example of github.com/facebookresearch/eb_jepa. No teacher and
    no stop-gradient. Encoder, predictor and inverse dynamics head are those of `lewm`. Needs
    `model.encoder.attention: moment`, or a convolutional encoder.
    """

    title = "VICReg for video"
    objective_class = "orchestrator.jepa.objectives.vicreg.objective:VICRegObjective"
    cost_class = "orchestrator.jepa.objectives.vicreg.cost:VICRegCost"
    predictor_builder = "orchestrator.jepa.objectives.vicreg.predictor:rebuild_predictor"
    encoder_builder = "orchestrator.jepa.objectives.vicreg.predictor:rebuild_encoder"
    plan_rollout = "orchestrator.jepa.objectives.lewm.branching:rollout_plans"
    autoregressive = True
    reads_actions = True
    one_token_per_timestep = True
    single_clip_shape = True
    features_start_collapsed = True
    collapse_hints = ("raise objective.variance", "raise scale.global_batch")

    kind: Literal["vicreg"] = "vicreg"
    """The objective."""

    variance: PositiveFloat = 16.0
    """Weight of the variance term; the prediction has weight 1."""

    covariance: NonNegativeFloat = 8.0
    """Weight of the covariance term."""

    similarity: NonNegativeFloat = 12.0
    """Weight of the temporal similarity term."""

    inverse: NonNegativeFloat = 1.0
    """Weight of inverse dynamics. Read only where the job has `data.actions`."""

    margin: PositiveFloat = 1.0
    """Standard deviation below which a number of an embedding is penalised."""

    epsilon: PositiveFloat = 1e-4
    """Added to a variance before its root is taken."""

    statistic_timesteps: Literal["together", "each"] = "together"
    """Samples of the variance and covariance: all timesteps of all clips `together`, as in eb_jepa;
    or the clips at `each` timestep, and the mean over timesteps, as PLDM writes it."""

    statistic_clips: int | None = Field(None, ge=2)
    """Clips of the global batch that one statistic acts on, whatever a micro-batch holds; must
    divide `scale.global_batch`. Default: all of them."""

    hidden: PositiveInt = 2048
    """Width inside the two projections: behind the encoder and behind the predictor."""

    embed: PositiveInt | None = None
    """Numbers of an embedding. Default: the encoder's width."""

    pool: Literal["mean", "places"] = "mean"
    """What is projected of a timestep: the mean of its patches, or all of them side by side."""

    rollout: PositiveInt = 1
    """Timesteps ahead that are predicted, all but the first from predictions; the loss is their
    mean. eb_jepa has 8, of clips of 17 frames."""

    @property
    def horizon_key(self) -> str:
        return "rollout"

    def lewm_keys(self) -> LeWM:
        """The keys of a LeWorldModel with the same encoder and predictor."""
        return LeWM.model_validate(self.model_dump(include=SHARED_KEYS))

    def check(self, job: TrainJob) -> None:
        """What a LeWorldModel of the same shape refuses."""
        self.lewm_keys().check(job)
