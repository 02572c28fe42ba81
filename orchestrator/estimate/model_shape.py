"""Tokens and parameters of a job, counted exactly from its shapes: what stands where, how wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.estimate.layer_cost import (
    Convolutions,
    Encoding,
    Recurrent,
    Stack,
    first_map,
    stack_of,
)
from orchestrator.job import (
    VJEPA2,
    VJEPA2AC,
    VJEPA21,
    Causal,
    Codes,
    Conv,
    Dynamics,
    Encoder,
    Fixed,
    Forwards,
    Future,
    LeWM,
    MultiBlock,
    Pixels,
    Predictive,
    Supervised,
    Taught,
    TrainJob,
    mask_counts,
    reads_moments,
)

WIDER = 4
"""Inner width of an action embedder over its output (`jepa/predictors/action_conditioning.py`)."""


@dataclass(frozen=True)
class TokenPlan:
    """Tokens of one clip: the grid over time, height, width; (context, targets) of each mask."""

    grid: tuple[int, int, int]
    masks: tuple[tuple[int, int], ...]

    @property
    def clip(self) -> int:
        """Tokens of a whole clip."""
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class ParameterPlan:
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
        and isinstance(objective, Predictive | Supervised | Forwards | VJEPA2AC)
        and not (isinstance(objective, Taught) and not _built_in(objective.encoder))
        and all(isinstance(mask, (MultiBlock, Future)) for mask in _masks(job))
    )


def _built_in(encoder: object) -> bool:
    return isinstance(encoder, Encoder | Conv | Codes)


def token_plan(job: TrainJob) -> TokenPlan:
    """The tokens of one clip; masks that are a user's own are not listed."""
    tokens = job.grid[0] * job.grid[1] * job.grid[2]
    built_in = [mask for mask in _masks(job) if isinstance(mask, (MultiBlock, Future))]
    return TokenPlan(job.grid, tuple(mask_counts(mask, tokens) for mask in built_in))


def _masks(job: TrainJob) -> Sequence[object]:
    return job.objective.masks if isinstance(job.objective, Predictive) else ()


def parameter_plan(job: TrainJob) -> ParameterPlan:
    """Parameters of a job whose parts are `countable`."""
    encoder, predictor = stacks(job)
    embed = sum(first(job)[:2])
    if isinstance(job.objective, Supervised):
        head = (encoder.dim + 1) * len(job.objective.classes)
        return ParameterPlan(embed + encoder.parameters, head, followed=False)
    projections = [sum(sizes) for sizes in projection_sizes(job)] or [0, 0]
    mask_tokens = len(_masks(job)) * predictor.dim
    into = sum(wide * narrow + narrow for wide, narrow in reading(job))
    out = (predictor.dim + 1) * predicted_width(job) * horizons(job) * outputs(job)
    if isinstance(job.objective, Dynamics):
        out = 0
    teacher = fixed_teacher(job)
    level_norms = 2 * encoder.dim * (levels(job) - 1)
    acting = told_maps(job) + heard_maps(job) + done_maps(job) + state_maps(job)
    told = sum((wide + 1) * narrow for wide, narrow in acting)
    own = embed + encoder.parameters + projections[0] + level_norms
    return ParameterPlan(
        encoder=0 if isinstance(job.objective, VJEPA2AC | Dynamics) else own,
        predictor=into + mask_tokens + predictor.parameters + (projections[1] or out) + told,
        followed=followed(job),
        fixed=sum(taught_first(job)[:2]) + teacher.parameters if teacher else 0,
        untold=bool(told) and job.data.act is not None and job.data.act.width is None,
    )


def told_maps(job: TrainJob) -> list[tuple[int, int]]:
    """The linear maps, from a width to a width, that read an action's numbers or a state's; a width
    that only the data says counts as 0."""
    act, wide = job.data.act, job.model.predictor.dim
    if act is None or not isinstance(job.objective, LeWM | VJEPA2AC):
        return []
    if isinstance(job.objective, LeWM):
        return [(act.width or 0, WIDER * wide)]
    return [(act.width or 0, wide)] * (2 if act.actions == "change" else 1)


def heard_maps(job: TrainJob) -> list[tuple[int, int]]:
    """The maps behind these."""
    lewm = isinstance(job.objective, LeWM)
    return [(wide, wide // WIDER) for _, wide in told_maps(job)] if lewm else []


def done_maps(job: TrainJob) -> list[tuple[int, int]]:
    """The map by which two embeddings of a LeWorldModel tell what was done between them."""
    if not isinstance(job.objective, LeWM) or not job.objective.inverse or job.data.act is None:
        return []
    return [(2 * embedding(job), job.data.act.width or 0)]


def state_maps(job: TrainJob) -> list[tuple[int, int]]:
    """The map by which an embedding of a LeWorldModel tells its moment's state."""
    if not isinstance(job.objective, LeWM) or job.objective.states is None or job.data.act is None:
        return []
    known, told = job.data.act.statistics, job.objective.states
    width = len(known.state_mean) if known else 0
    return [(embedding(job), len(told.plain(width)) + 2 * len(told.angles))]


def embedding(job: TrainJob) -> int:
    """Numbers of what the encoder gives for a token, or of a LeWorldModel's moment."""
    dim = stacks(job)[0].dim
    return job.objective.embed or dim if isinstance(job.objective, LeWM) else dim


def projection_sizes(job: TrainJob) -> list[tuple[int, ...]]:
    """The tensors of a LeWorldModel's projections, behind the encoder and the predictor."""
    if not isinstance(job.objective, LeWM):
        return []
    encoder, predictor = stacks(job)
    hidden, width = job.objective.hidden, embedding(job)
    places = job.grid[1] * job.grid[2] if job.objective.pool == "places" else 1
    return [
        (dim * hidden, hidden, hidden, hidden, hidden * width, width)
        for dim in (places * encoder.dim, predictor.dim)
    ]


def followed(job: TrainJob) -> bool:
    """Whether a teacher follows the encoder."""
    return isinstance(job.objective, VJEPA2 | VJEPA21 | Causal)


def fixed_teacher(job: TrainJob) -> Stack | Convolutions | None:
    """The blocks of a frozen teacher."""
    if not isinstance(job.objective, Fixed):
        return None
    encoder, by_moment = _taught(job), isinstance(job.objective, VJEPA2AC)
    return stack_of(encoder, job.model, _spans(job, encoder, by_moment))


def taught_first(job: TrainJob) -> tuple[int, int, float]:
    """As `first`, of whatever gives targets."""
    if not isinstance(job.objective, Fixed):
        return first(job)
    return first_map(_taught(job), job.model)


def _taught(job: TrainJob) -> Encoding:
    """The encoder that stays as it is."""
    encoder = job.objective.encoder if isinstance(job.objective, Taught) else job.model.encoder
    assert isinstance(encoder, Encoder | Conv | Codes)
    return encoder


def teaching(job: TrainJob) -> Stack | Convolutions | None:
    """The blocks of whatever gives targets: a teacher that follows the encoder, or a frozen one."""
    return stacks(job)[0] if followed(job) else fixed_teacher(job)


def horizons(job: TrainJob) -> int:
    """Predictions that the predictor gives for a token that it is asked about."""
    return job.objective.horizons if isinstance(job.objective, Causal) else 1


def predicted_width(job: TrainJob) -> int:
    """Values of one prediction of a token."""
    if isinstance(job.objective, Pixels):
        return pixels_per_token(job)
    if isinstance(job.objective, LeWM):
        return embedding(job)
    return levels(job) * (fixed_teacher(job) or stacks(job)[0]).dim


def levels(job: TrainJob) -> int:
    """Levels of the encoder that are read and predicted."""
    return max(1, len(job.model.levels))


def reading(job: TrainJob) -> list[tuple[int, int]]:
    """The linear maps, from a width to a width, by which the predictor reads a token."""
    encoder, predictor = stacks(job)
    if isinstance(job.objective, Dynamics):
        return []  # its first and last products are parts of its stack
    if levels(job) == 1:
        return [(embedding(job), predictor.dim)]
    return [(levels(job) * encoder.dim, encoder.dim), (encoder.dim, predictor.dim)]


def outputs(job: TrainJob) -> int:
    """Maps from the predictor to what it predicts: of what is hidden and, where it is predicted
    too, of what is seen."""
    return 2 if isinstance(job.objective, VJEPA21) else 1


def asked_tokens(job: TrainJob, tokens: TokenPlan) -> list[int]:
    """Tokens that are predicted under each mask."""
    return [n_t + n_c * (outputs(job) - 1) for n_c, n_t in tokens.masks]


def stacks(job: TrainJob) -> tuple[Stack | Convolutions, Stack | Recurrent]:
    """The blocks of the encoder and of the predictor of a `countable` job."""
    encoder = _read_by(job)
    moments, area = job.grid[0], job.grid[1] * job.grid[2]
    spans = (area, moments) if isinstance(job.objective, Causal) else ()
    adaptive = isinstance(job.objective, LeWM) and job.data.act is not None
    by_moment = isinstance(job.objective, VJEPA2AC)
    if isinstance(job.objective, Dynamics):
        shape = job.model.predictor
        blocks = stack_of(encoder, job.model, ())
        return blocks, Recurrent(shape.dim, shape.depth, encoder.dim)
    return (
        stack_of(encoder, job.model, _spans(job, encoder, by_moment)),
        Stack.of(job.model.predictor, spans, adaptive),
    )


def first(job: TrainJob) -> tuple[int, int, float]:
    """What meets the pixels first in the encoder: weights, biases, forward FLOPs for a token."""
    return first_map(_read_by(job), job.model)


def _read_by(job: TrainJob) -> Encoding:
    """The encoder whose features the predictor reads."""
    encoder = job.objective.encoder if isinstance(job.objective, VJEPA2AC) else job.model.encoder
    assert isinstance(encoder, Encoder | Conv | Codes)
    return encoder


def _spans(job: TrainJob, encoder: Encoding, by_moment: bool) -> tuple[int, ...]:
    """What a token of the encoder attends to."""
    area = job.grid[1] * job.grid[2]
    return (area,) if by_moment or reads_moments(encoder) else ()


def pixels_per_token(job: TrainJob) -> int:
    """Values that the patch embedding turns into one token."""
    return 3 * job.model.tubelet * job.model.patch**2
