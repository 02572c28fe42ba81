"""Tokens, parameters and FLOPs of a job, counted exactly from its shapes.

FLOPs count the matrix products that the model defines, 2 m n k each; norms, activations and
rotations are left out (about 1%). For a block of width d and MLP width h on n tokens:

    forward = 2 n (4 d^2 + 2 d h)  +  4 n^2 d        (projections and MLP; attention)

A backward pass costs twice its forward (the gradients of the input and of the weight), except
for the first layer, whose input needs none. What is computed again (flash attention,
activation checkpointing) is no model FLOP; checkpointing's repeat is `FlopPlan.recomputed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.job import (
    VJEPA2,
    VJEPA2AC,
    VJEPA21,
    Causal,
    Conv,
    Encoder,
    Forwards,
    Future,
    Gaussian,
    LeJEPA,
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
from orchestrator.plan.batch import BatchPlan
from orchestrator.plan.stack import Convolutions, Stack, first_map, stack_of

WIDER = 4
"""Width inside an action's embedder over the width that it gives (`orchestrator.jepa.actions`)."""

KNOTS = 16
"""Knots of SIGReg that cost anything (`orchestrator.jepa.sigreg`)."""


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


@dataclass(frozen=True)
class FlopPlan:
    """FLOPs of one optimizer step over all ranks, by part. Rows of weight 0 are not counted."""

    encoder_forward: float
    encoder_backward: float
    teacher_forward: float
    predictor_forward: float
    predictor_backward: float
    attention: float
    """The part of the sum that is attention (n^2)."""
    recomputed: float
    """What activation checkpointing would add; no part of the sum."""
    statistic: float = 0.0
    """SIGReg, forward and backward."""
    first_pass: float = 0.0
    """A statistic's first pass, where a rank accumulates; computed again, so no part of the sum."""

    @property
    def total(self) -> float:
        """Model FLOPs of the step, forward and backward."""
        return (
            self.encoder_forward
            + self.encoder_backward
            + self.teacher_forward
            + self.predictor_forward
            + self.predictor_backward
            + self.statistic
        )


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
    return isinstance(encoder, Encoder | Conv)


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
    teacher = fixed_teacher(job)
    level_norms = 2 * encoder.dim * (levels(job) - 1)
    acting = told_maps(job) + heard_maps(job) + done_maps(job) + state_maps(job)
    told = sum((wide + 1) * narrow for wide, narrow in acting)
    own = embed + encoder.parameters + projections[0] + level_norms
    return ParameterPlan(
        encoder=0 if isinstance(job.objective, VJEPA2AC) else own,
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
    plain = [n for n in told.numbers or range(width) if n not in told.angles]
    return [(embedding(job), len(plain) + 2 * len(told.angles))]


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
    if not isinstance(job.objective, Taught):
        return None
    assert isinstance(job.objective.encoder, Encoder | Conv)
    by_moment = isinstance(job.objective, VJEPA2AC)
    return stack_of(job.objective.encoder, job.model, _spans(job, job.objective.encoder, by_moment))


def taught_first(job: TrainJob) -> tuple[int, int, float]:
    """As `first`, of whatever gives targets."""
    if not isinstance(job.objective, Taught):
        return first(job)
    assert isinstance(job.objective.encoder, Encoder | Conv)
    return first_map(job.objective.encoder, job.model)


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


def flop_plan(job: TrainJob, tokens: TokenPlan) -> FlopPlan:
    """FLOPs of a step of a job whose parts are `countable`."""
    encoder, predictor = stacks(job)
    clips = job.scale.global_batch
    embed = first(job)[2]
    read, told = encoder_reads(job, tokens), predictor_reads(job, tokens)
    student_blocks = sum(encoder.flops(n) for n in read)
    student_embed = sum(embed * n for n in read)
    projected = _projected(job, 0, job.grid[0])
    whole = embed * tokens.clip + encoder.flops(tokens.clip) + projected
    teacher, taught = teaching(job), 0.0
    if teacher:
        taught = taught_first(job)[2] * tokens.clip + teacher.flops(tokens.clip)
    predicting = _behind(job, tokens)
    again = sum(encoder.recomputed(n) for n in read)
    again += sum(predictor.recomputed(n) for n in told)
    attention = 3 * sum(encoder.attention(n) for n in read)
    attention += 3 * sum(predictor.attention(n) for n in told)
    attention += teacher.attention(tokens.clip) if teacher else 0.0
    statistic = _statistic(job, tokens)
    twice = isinstance(job.objective, Gaussian) and BatchPlan.of(job.scale).accum > 1
    return FlopPlan(
        encoder_forward=clips * (student_embed + student_blocks + projected),
        encoder_backward=clips * (student_embed + 2 * (student_blocks + projected)),
        teacher_forward=clips * taught,
        predictor_forward=clips * predicting,
        predictor_backward=clips * (2 * predicting - _known(job)),
        attention=clips * attention,
        recomputed=clips * again,
        statistic=clips * statistic,
        first_pass=clips * whole if twice else 0.0,
    )


def encoder_reads(job: TrainJob, tokens: TokenPlan) -> list[int]:
    """Lengths of the sequences that the student's encoder reads of a clip, with a graph."""
    whole = isinstance(job.objective, LeJEPA | Supervised | Forwards)
    return [n_c for n_c, _ in tokens.masks] + ([tokens.clip] if whole else [])


def predictor_reads(job: TrainJob, tokens: TokenPlan) -> list[int]:
    """Lengths of the sequences that the predictor reads of a clip."""
    if isinstance(job.objective, LeWM):
        return [job.grid[0] - ahead for ahead in range(1, job.objective.rollout + 1)]
    if isinstance(job.objective, VJEPA2AC):
        return [frames * _of_frame(job) for frames in _frames_read(job)]
    whole = isinstance(job.objective, Causal)
    return [n_c + n_t for n_c, n_t in tokens.masks] + ([tokens.clip] if whole else [])


def _behind(job: TrainJob, tokens: TokenPlan) -> float:
    """Forward FLOPs of a clip behind the encoder: its predictor's, or a supervised head's."""
    encoder, predictor = stacks(job)
    if isinstance(job.objective, Supervised):
        return 2.0 * encoder.dim * len(job.objective.classes)
    into = sum(2.0 * wide * narrow for wide, narrow in reading(job))
    told = sum(2.0 * wide * narrow for wide, narrow in told_maps(job) + heard_maps(job))
    if isinstance(job.objective, LeWM):
        reads = predictor_reads(job, tokens)
        blocks = sum(predictor.flops(moments) for moments in reads)
        done = sum(2.0 * wide * narrow for wide, narrow in done_maps(job)) * (job.grid[0] - 1)
        done += sum(2.0 * wide * narrow for wide, narrow in state_maps(job)) * job.grid[0]
        return blocks + (into + told) * sum(reads) + _projected(job, 1, sum(reads)) + done
    out = 2.0 * predictor.dim * predicted_width(job) * horizons(job)
    if isinstance(job.objective, Causal):
        return predictor.flops(tokens.clip) + (into + out) * tokens.clip
    if isinstance(job.objective, VJEPA2AC):
        frames, area = sum(_frames_read(job)), job.grid[1] * job.grid[2]
        blocks = sum(predictor.flops(n) for n in predictor_reads(job, tokens))
        return blocks + frames * ((into + out) * area + told)
    asked = sum(asked_tokens(job, tokens))
    return out * asked + sum(predictor.flops(n_c + n_t) + into * n_c for n_c, n_t in tokens.masks)


def _known(job: TrainJob) -> float:
    """Of the predictor's forward: the maps whose input needs no gradient, since the data or a
    frozen teacher said it."""
    told = sum(2.0 * wide * narrow for wide, narrow in told_maps(job))
    if isinstance(job.objective, VJEPA2AC):
        into = sum(2.0 * wide * narrow for wide, narrow in reading(job))
        forced = (job.grid[0] - 1) * job.grid[1] * job.grid[2]
        return told * sum(_frames_read(job)) + into * forced
    if isinstance(job.objective, LeWM):
        return told * sum(job.grid[0] - ahead for ahead in range(1, job.objective.rollout + 1))
    return 0.0


def _frames_read(job: TrainJob) -> list[int]:
    """Frames of each sequence that V-JEPA 2-AC's predictor reads: all, then the rollout's."""
    assert isinstance(job.objective, VJEPA2AC)
    return [job.grid[0] - 1, *range(2, job.objective.rollout + 1)]


def _of_frame(job: TrainJob) -> int:
    """Tokens of a frame in that sequence: what is told, and its patches."""
    return len(told_maps(job)) + job.grid[1] * job.grid[2]


def _projected(job: TrainJob, which: int, moments: int) -> float:
    """Forward FLOPs of a LeWorldModel's projection behind the encoder (0) or the predictor (1)."""
    sizes = projection_sizes(job)
    return 2.0 * moments * (sizes[which][0] + sizes[which][4]) if sizes else 0.0


def _statistic(job: TrainJob, tokens: TokenPlan) -> float:
    """FLOPs of a clip in SIGReg: projected on the slices, there and back, and its share of every
    set's mean of cos and sin at every knot."""
    if not isinstance(job.objective, Gaussian):
        return 0.0
    sets, projected = statistic_size(job, tokens)
    return projected * (4.0 * embedding(job) + 2 * 2 * KNOTS * sets)


def statistic_size(job: TrainJob, tokens: TokenPlan) -> tuple[int, int]:
    """Sets of clips that SIGReg's statistic acts on, and projections of one clip."""
    assert isinstance(job.objective, Gaussian)
    whole = job.scale.global_batch
    sets = whole // (job.objective.statistic_clips or whole)
    positions = job.grid[0] if isinstance(job.objective, LeWM) else tokens.clip
    return sets, positions * job.objective.slices


def stacks(job: TrainJob) -> tuple[Stack | Convolutions, Stack]:
    """The blocks of the encoder and of the predictor of a `countable` job."""
    encoder = _read_by(job)
    moments, area = job.grid[0], job.grid[1] * job.grid[2]
    spans = (area, moments) if isinstance(job.objective, Causal) else ()
    adaptive = isinstance(job.objective, LeWM) and job.data.act is not None
    by_moment = isinstance(job.objective, VJEPA2AC)
    return (
        stack_of(encoder, job.model, _spans(job, encoder, by_moment)),
        Stack.of(job.model.predictor, spans, adaptive),
    )


def first(job: TrainJob) -> tuple[int, int, float]:
    """What meets the pixels first in the encoder: weights, biases, forward FLOPs for a token."""
    return first_map(_read_by(job), job.model)


def _read_by(job: TrainJob) -> Encoder | Conv:
    """The encoder whose features the predictor reads."""
    encoder = job.objective.encoder if isinstance(job.objective, VJEPA2AC) else job.model.encoder
    assert isinstance(encoder, Encoder | Conv)
    return encoder


def _spans(job: TrainJob, encoder: Encoder | Conv, by_moment: bool) -> tuple[int, ...]:
    """What a token of the encoder attends to."""
    area = job.grid[1] * job.grid[2]
    return (area,) if by_moment or reads_moments(encoder) else ()


def pixels_per_token(job: TrainJob) -> int:
    """Values that the patch embedding turns into one token."""
    return 3 * job.model.tubelet * job.model.patch**2
