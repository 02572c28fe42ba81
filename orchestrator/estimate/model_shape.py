"""Tokens and parameters of a job, counted exactly from its shapes: what stands where, how wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.estimate.layer_cost import (
    BuiltInEncoder,
    ConvEncoderCost,
    RecurrentPredictorCost,
    TransformerCost,
    encoder_cost,
    patch_embed_cost,
)
from orchestrator.job import (
    VJEPA2,
    VJEPA2AC,
    VJEPA21,
    Autoregressive,
    CausalPrediction,
    ConvEncoderConfig,
    Future,
    HasFrozenTargets,
    HasPretrainedTeacher,
    LatentDynamics,
    LeWM,
    MaskedPrediction,
    MultiBlock,
    PCAEncoderConfig,
    PixelPrediction,
    Supervised,
    TrainJob,
    ViTConfig,
    encodes_timesteps_separately,
    mask_counts,
)

ACTION_MLP_RATIO = 4
"""Inner width of an action embedder over its output (`jepa/predictors/action_conditioning.py`)."""


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one clip: the grid over time, height, width; (context, targets) of each mask."""

    grid: tuple[int, int, int]
    masks: tuple[tuple[int, int], ...]

    @property
    def clip(self) -> int:
        """Tokens of a whole clip."""
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of each part. A teacher that follows the encoder has as many; one that is frozen
    its own number. It is never trained."""

    encoder: int
    predictor: int
    """What stands behind the encoder: the predictor, or a supervised head."""

    followed: bool = True
    """Whether a teacher follows the encoder."""

    fixed: int = 0
    """Of a frozen teacher."""

    untold: bool = False
    """Whether the weights that read an action's numbers are not counted: how many numbers there are
    only the data says."""

    @property
    def teacher(self) -> int:
        return self.encoder if self.followed else self.fixed

    @property
    def trained(self) -> int:
        return self.encoder + self.predictor


def countable(job: TrainJob) -> bool:
    """True when every part is built in, and a frozen teacher's shape is known: what a user's own
    part costs, only building it shows."""
    objective = job.objective
    return (
        (isinstance(objective, VJEPA2AC) or _built_in(job.model.encoder))
        and isinstance(objective, MaskedPrediction | Supervised | Autoregressive | VJEPA2AC)
        and not (isinstance(objective, HasPretrainedTeacher) and not _built_in(objective.encoder))
        and all(isinstance(mask, (MultiBlock, Future)) for mask in _masks(job))
    )


def _built_in(encoder: object) -> bool:
    return isinstance(encoder, ViTConfig | ConvEncoderConfig | PCAEncoderConfig)


def count_tokens(job: TrainJob) -> TokenCounts:
    """The tokens of one clip; masks that are a user's own are not listed."""
    tokens = job.grid[0] * job.grid[1] * job.grid[2]
    built_in = [mask for mask in _masks(job) if isinstance(mask, (MultiBlock, Future))]
    return TokenCounts(job.grid, tuple(mask_counts(mask, tokens) for mask in built_in))


def _masks(job: TrainJob) -> Sequence[object]:
    return job.objective.masks if isinstance(job.objective, MaskedPrediction) else ()


def count_parameters(job: TrainJob) -> ParameterCounts:
    """Parameters of a job whose parts are `countable`."""
    encoder, predictor = encoder_and_predictor(job)
    embed = sum(patch_embed(job)[:2])
    if isinstance(job.objective, Supervised):
        head = (encoder.dim + 1) * len(job.objective.classes)
        return ParameterCounts(embed + encoder.parameters, head, followed=False)
    projections = [sum(sizes) for sizes in projector_tensor_sizes(job)] or [0, 0]
    mask_tokens = len(_masks(job)) * predictor.dim
    into = sum(wide * narrow + narrow for wide, narrow in predictor_in_proj(job))
    out = (
        (predictor.dim + 1) * prediction_dim(job) * num_horizons(job) * num_output_projections(job)
    )
    if isinstance(job.objective, LatentDynamics):
        out = 0
    teacher = frozen_teacher_blocks(job)
    level_norms = 2 * encoder.dim * (num_feature_layers(job) - 1)
    acting = (
        action_in_proj(job) + action_mlp_out(job) + inverse_dynamics_head(job) + state_head(job)
    )
    told = sum((wide + 1) * narrow for wide, narrow in acting)
    own = embed + encoder.parameters + projections[0] + level_norms
    return ParameterCounts(
        encoder=0 if isinstance(job.objective, VJEPA2AC | LatentDynamics) else own,
        predictor=into + mask_tokens + predictor.parameters + (projections[1] or out) + told,
        followed=has_ema_teacher(job),
        fixed=sum(teacher_patch_embed(job)[:2]) + teacher.parameters if teacher else 0,
        untold=bool(told) and job.data.actions is not None and job.data.actions.action_dim is None,
    )


def action_in_proj(job: TrainJob) -> list[tuple[int, int]]:
    """The linear maps, from a width to a width, that read an action's numbers or a state's; a width
    that only the data says counts as 0."""
    act, wide = job.data.actions, job.model.predictor.dim
    if act is None or not isinstance(job.objective, LeWM | VJEPA2AC):
        return []
    if isinstance(job.objective, LeWM):
        return [(act.action_dim or 0, ACTION_MLP_RATIO * wide)]
    return [(act.action_dim or 0, wide)] * (2 if act.representation == "change" else 1)


def action_mlp_out(job: TrainJob) -> list[tuple[int, int]]:
    """The maps behind these."""
    lewm = isinstance(job.objective, LeWM)
    return [(wide, wide // ACTION_MLP_RATIO) for _, wide in action_in_proj(job)] if lewm else []


def inverse_dynamics_head(job: TrainJob) -> list[tuple[int, int]]:
    """The map by which two embeddings of a LeWorldModel tell what was done between them."""
    if not isinstance(job.objective, LeWM) or not job.objective.inverse or job.data.actions is None:
        return []
    return [(2 * embedding_dim(job), job.data.actions.action_dim or 0)]


def state_head(job: TrainJob) -> list[tuple[int, int]]:
    """The map by which an embedding of a LeWorldModel tells its moment's state."""
    if (
        not isinstance(job.objective, LeWM)
        or job.objective.states is None
        or job.data.actions is None
    ):
        return []
    known, told = job.data.actions.statistics, job.objective.states
    width = len(known.state_mean) if known else 0
    return [(embedding_dim(job), len(told.non_angle_dims(width)) + 2 * len(told.angles))]


def embedding_dim(job: TrainJob) -> int:
    """Numbers of what the encoder gives for a token, or of a LeWorldModel's moment."""
    dim = encoder_and_predictor(job)[0].dim
    return job.objective.embed or dim if isinstance(job.objective, LeWM) else dim


def projector_tensor_sizes(job: TrainJob) -> list[tuple[int, ...]]:
    """The tensors of a LeWorldModel's projections, behind the encoder and the predictor."""
    if not isinstance(job.objective, LeWM):
        return []
    encoder, predictor = encoder_and_predictor(job)
    hidden, width = job.objective.hidden, embedding_dim(job)
    places = job.grid[1] * job.grid[2] if job.objective.pool == "places" else 1
    return [
        (dim * hidden, hidden, hidden, hidden, hidden * width, width)
        for dim in (places * encoder.dim, predictor.dim)
    ]


def has_ema_teacher(job: TrainJob) -> bool:
    """Whether a teacher follows the encoder."""
    return isinstance(job.objective, VJEPA2 | VJEPA21 | CausalPrediction)


def frozen_teacher_blocks(job: TrainJob) -> TransformerCost | ConvEncoderCost | None:
    """The blocks of a frozen teacher."""
    if not isinstance(job.objective, HasFrozenTargets):
        return None
    encoder, by_moment = _frozen_encoder_config(job), isinstance(job.objective, VJEPA2AC)
    return encoder_cost(encoder, job.model, _attention_spans(job, encoder, by_moment))


def teacher_patch_embed(job: TrainJob) -> tuple[int, int, float]:
    """As `patch_embed`, of whatever gives targets."""
    if not isinstance(job.objective, HasFrozenTargets):
        return patch_embed(job)
    return patch_embed_cost(_frozen_encoder_config(job), job.model)


def _frozen_encoder_config(job: TrainJob) -> BuiltInEncoder:
    """The encoder that stays as it is."""
    encoder = (
        job.objective.encoder
        if isinstance(job.objective, HasPretrainedTeacher)
        else job.model.encoder
    )
    assert isinstance(encoder, ViTConfig | ConvEncoderConfig | PCAEncoderConfig)
    return encoder


def teacher_blocks(job: TrainJob) -> TransformerCost | ConvEncoderCost | None:
    """The blocks of whatever gives targets: a teacher that follows the encoder, or a frozen one."""
    return encoder_and_predictor(job)[0] if has_ema_teacher(job) else frozen_teacher_blocks(job)


def num_horizons(job: TrainJob) -> int:
    """Predictions that the predictor gives for a token that it is asked about."""
    return job.objective.horizons if isinstance(job.objective, CausalPrediction) else 1


def prediction_dim(job: TrainJob) -> int:
    """Values of one prediction of a token."""
    if isinstance(job.objective, PixelPrediction):
        return pixels_per_token(job)
    if isinstance(job.objective, LeWM):
        return embedding_dim(job)
    return (
        num_feature_layers(job) * (frozen_teacher_blocks(job) or encoder_and_predictor(job)[0]).dim
    )


def num_feature_layers(job: TrainJob) -> int:
    """Levels of the encoder that are read and predicted."""
    return max(1, len(job.model.levels))


def predictor_in_proj(job: TrainJob) -> list[tuple[int, int]]:
    """The linear maps, from a width to a width, by which the predictor reads a token."""
    encoder, predictor = encoder_and_predictor(job)
    if isinstance(job.objective, LatentDynamics):
        return []  # its first and last products are parts of its stack
    if num_feature_layers(job) == 1:
        return [(embedding_dim(job), predictor.dim)]
    return [(num_feature_layers(job) * encoder.dim, encoder.dim), (encoder.dim, predictor.dim)]


def num_output_projections(job: TrainJob) -> int:
    """Maps from the predictor to what it predicts: of what is hidden and, where it is predicted
    too, of what is seen."""
    return 2 if isinstance(job.objective, VJEPA21) else 1


def num_predicted_tokens(job: TrainJob, tokens: TokenCounts) -> list[int]:
    """Tokens that are predicted under each mask."""
    return [n_t + n_c * (num_output_projections(job) - 1) for n_c, n_t in tokens.masks]


def encoder_and_predictor(
    job: TrainJob,
) -> tuple[TransformerCost | ConvEncoderCost, TransformerCost | RecurrentPredictorCost]:
    """The blocks of the encoder and of the predictor of a `countable` job."""
    encoder = _encoder_config(job)
    moments, area = job.grid[0], job.grid[1] * job.grid[2]
    spans = (area, moments) if isinstance(job.objective, CausalPrediction) else ()
    adaptive = isinstance(job.objective, LeWM) and job.data.actions is not None
    by_moment = isinstance(job.objective, VJEPA2AC)
    if isinstance(job.objective, LatentDynamics):
        shape = job.model.predictor
        blocks = encoder_cost(encoder, job.model, ())
        return blocks, RecurrentPredictorCost(shape.dim, shape.depth, encoder.dim)
    return (
        encoder_cost(encoder, job.model, _attention_spans(job, encoder, by_moment)),
        TransformerCost.from_config(job.model.predictor, spans, adaptive),
    )


def patch_embed(job: TrainJob) -> tuple[int, int, float]:
    """What meets the pixels first in the encoder: weights, biases, forward FLOPs for a token."""
    return patch_embed_cost(_encoder_config(job), job.model)


def _encoder_config(job: TrainJob) -> BuiltInEncoder:
    """The encoder whose features the predictor reads."""
    encoder = job.objective.encoder if isinstance(job.objective, VJEPA2AC) else job.model.encoder
    assert isinstance(encoder, ViTConfig | ConvEncoderConfig | PCAEncoderConfig)
    return encoder


def _attention_spans(job: TrainJob, encoder: BuiltInEncoder, per_timestep: bool) -> tuple[int, ...]:
    """What a token of the encoder attends to."""
    area = job.grid[1] * job.grid[2]
    return (area,) if per_timestep or encodes_timesteps_separately(encoder) else ()


def pixels_per_token(job: TrainJob) -> int:
    """Values that the patch embedding turns into one token."""
    return 3 * job.model.tubelet * job.model.patch**2
