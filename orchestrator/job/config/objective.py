"""The objective section: what is predicted, from what, and to what."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from orchestrator.job.config.base import CustomComponent, Section, component_tag, field_error
from orchestrator.job.config.masks import VJEPA2_MASKS, AnyMask
from orchestrator.job.config.model import AnyEncoder, encoder_preset


class VJEPA2(Section):
    """V-JEPA 2: L1 between predictions and the layer-normed features of an EMA teacher.

    arXiv 2506.09985, equation 1.
    """

    kind: Literal["vjepa2"] = "vjepa2"
    """The objective."""

    ema: float = Field(0.99925, ge=0, le=1)
    """Momentum of the teacher: teacher = ema * teacher + (1 - ema) * student."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step; all share one forward of the teacher."""


class VJEPA21(Section):
    """V-JEPA 2.1: L1 to the teacher's layer-normed levels, at hidden and at seen tokens.

    arXiv 2603.14482. The levels are those of `model.levels`. The error at a seen token counts
    `context_weight` / sqrt(its distance to the nearest hidden one, in tokens).
    """

    kind: Literal["vjepa21"] = "vjepa21"
    """The objective."""

    ema: float = Field(0.99925, ge=0, le=1)
    """Momentum of the teacher: teacher = ema * teacher + (1 - ema) * student."""

    context_weight: NonNegativeFloat = 0.5
    """Of the loss on what is seen, once its ramp is over."""

    context_ramp: tuple[NonNegativeInt, NonNegativeInt] = (15_000, 30_000)
    """Steps between which that weight rises from 0, linearly."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step; all share one forward of the teacher."""

    @model_validator(mode="after")
    def _ramp_rises(self) -> VJEPA21:
        first, last = self.context_ramp
        if first > last:
            raise field_error("objective.context_ramp", f"{last} comes before {first}")
        return self


class LeJEPA(Section):
    """LeJEPA for video: predict the same encoder's features, which SIGReg holds to N(0, I).

    arXiv 2511.08544, section 5. No teacher and no stop-gradient:
    (1 - weight) * prediction + weight * SIGReg.
    """

    kind: Literal["lejepa"] = "lejepa"
    """The objective."""

    weight: float = Field(0.05, gt=0, lt=1)
    """Of SIGReg; the prediction has the rest."""

    slices: PositiveInt = 256
    """Random directions along which features are compared with a normal distribution."""

    statistic_clips: int | None = Field(None, ge=2)
    """Clips of the global batch that one statistic acts on, whatever a micro-batch holds; must
    divide `scale.global_batch`. Default: all of them."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step; all share one forward of the whole clip."""


class StateSupervision(Section):
    """That embeddings tell, by one linear map, the state which the data has beside each frame.

    A label from outside, and no part of LeWorldModel: for data whose states are known, where what
    matters is slow to be seen by prediction alone."""

    weight: PositiveFloat = 1.0
    """Of its mean square error, every number at its own scale."""

    angles: tuple[NonNegativeInt, ...] = ()
    """Which numbers of a state, from 0, are angles in radians: they are told as cosine and sine."""

    numbers: tuple[NonNegativeInt, ...] = ()
    """Which numbers are told. Default: all."""

    def non_angle_dims(self, width: int) -> list[int]:
        """The numbers of a state of `width` that are told as they are."""
        return [n for n in self.numbers or range(width) if n not in self.angles]


class LeWM(Section):
    """LeWorldModel: one embedding a moment, the next one predicted, SIGReg against collapse.

    arXiv 2603.19312. The mean error of the next embedding + weight * SIGReg, end to end: no
    teacher, no stop-gradient. Needs `model.encoder.attention: moment`; with `model.tubelet: 1`, as
    published, a moment is a frame. With `data.actions`, as published, the prediction knows what is
    done; without, the next embedding follows from those before it.
    """

    kind: Literal["lewm"] = "lewm"
    """The objective."""

    weight: PositiveFloat = 0.1
    """Of SIGReg, the one hyperparameter of the loss; the prediction has weight 1."""

    slices: PositiveInt = 1024
    """Random directions along which embeddings are compared with a normal distribution."""

    statistic_clips: int | None = Field(None, ge=2)
    """Clips of the global batch that one statistic acts on, whatever a micro-batch holds; must
    divide `scale.global_batch`. Default: all of them."""

    hidden: PositiveInt = 2048
    """Width inside the two projections: behind the encoder and behind the predictor."""

    embed: PositiveInt | None = None
    """Numbers of an embedding. Default: the encoder's width. A world of few degrees of freedom
    wants few: SIGReg spreads features along all of them, and distances then mean less."""

    pool: Literal["mean", "places"] = "mean"
    """What is projected of a moment: the mean of its patches, or all of them side by side, so that
    where a small thing is is known."""

    inverse: NonNegativeFloat = 0.0
    """Weight of inverse dynamics (PLDM, arXiv 2502.14819): what was done between two moments, read
    linearly off both embeddings. Needs `data.actions`. 0: as published."""

    states: StateSupervision | None = None
    """Embeddings also predict the states of the data. Needs `data.actions`. Default: no."""

    rollout: PositiveInt = 1
    """Moments ahead that are predicted, all but the first from predictions; the loss is their
    mean. 1: as published."""


class FrozenTeacher(Section):
    """A frozen teacher (SALT's second stage): L1 to the features of an encoder that stays as it is.

    arXiv 2509.24317. The teacher was trained before, by pixel prediction as published, and may be
    smaller than the student. No moving average: the loss can be compared between runs.
    """

    kind: Literal["frozen"] = "frozen"
    """The objective."""

    teacher: str = Field(min_length=1)
    """A trained model: `models:/NAME@alias`, `runs:/ID/model` or a folder with its files."""

    encoder: AnyEncoder | None = None
    """The teacher's encoder: a size or its numbers. Default: read from the teacher when the
    training begins; written, it is compared with it, and `plan` can count it."""

    digest: str | None = None
    """The teacher's weights, 16 hex digits. Default: those that are found when the training
    begins; a run that goes on refuses any others."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step; all share one forward of the teacher."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return _with_encoder_preset(data)


def _with_encoder_preset(data: Any) -> Any:
    if isinstance(data, dict) and isinstance(data.get("encoder"), str):
        return {**data, "encoder": encoder_preset(data["encoder"], "objective.encoder")}
    return data


class PixelPrediction(Section):
    """Pixel prediction as in VideoMAE: hidden patches, each normalised by its own mean and spread.

    arXiv 2203.12602, section 3. Encoder, masks and predictor are those of the latent objectives.
    """

    kind: Literal["pixels"] = "pixels"
    """The objective."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step."""


class Supervised(Section):
    """Cross-entropy of a clip's class, read off the mean of its features by a linear head.

    The class stands in the clip's key: a packed dataset's keys begin with it, or hold it.
    """

    kind: Literal["supervised"] = "supervised"
    """The objective."""

    classes: tuple[str, ...] = Field(min_length=2)
    """Names of the classes."""

    label: str = "^[a-z]+"
    """Regular expression whose first match in a clip's key is its class."""

    @model_validator(mode="after")
    def _readable(self) -> Supervised:
        try:
            re.compile(self.label)
        except re.error as error:
            raise field_error("objective.label", f"no regular expression: {error}") from None
        if len(set(self.classes)) < len(self.classes):
            raise field_error("objective.classes", "a class is named twice")
        return self


class CausalPrediction(Section):
    """Past to future: after every moment, an EMA teacher's layer-normed features of the next ones.

    DINO-WM (arXiv 2411.04983) and V-JEPA 2-AC (arXiv 2506.09985, section 3) predict so, with
    actions and a frozen encoder; here the encoder learns too. One pass over a clip predicts after
    each of its moments. Needs `model.encoder.attention: moment`.
    """

    kind: Literal["causal"] = "causal"
    """The objective."""

    ema: float = Field(0.998, ge=0, le=1)
    """Momentum of the teacher: teacher = ema * teacher + (1 - ema) * student."""

    horizons: PositiveInt = 3
    """Moments (tubelets) ahead that are predicted at once; what lies beyond is predicted from
    predictions."""


class LatentDynamics(Section):
    """The next moment's codes, from all that was seen: only what is to come is learnt.

    As DINO-WM (arXiv 2411.04983) a mean square error in the space of an encoder that stays as it
    is, without actions; the encoder is `model.encoder: {kind: codes}`. The predictor is
    convolutional, with a memory, and predicts what changes. Where `masks` hide some of the past it
    has to remember and go on by itself. Of `model.predictor` it reads `depth` (memories) and `dim`.
    """

    kind: Literal["dynamics"] = "dynamics"
    """The objective."""

    masks: tuple[AnyMask, ...] = Field((), max_length=1)
    """Its targets are hidden from the predictor; its context says nothing here. All is predicted,
    hidden or not. Default: nothing is hidden."""

    horizons: PositiveInt = 1
    """Moments ahead that the trained model is asked for after every moment, beyond the next one
    from predictions. Training asks for the next one alone."""

    digest: str | None = None
    """The codes' weights, 16 hex digits. Default: those that are found when the training begins; a
    run that goes on refuses any others."""


class VJEPA2AC(Section):
    """V-JEPA 2-AC: a frozen encoder's features of the next frame, from action, state and features.

    arXiv 2506.09985, section 3.1. Every frame is encoded by itself. L1 of the next frame's
    features, told the ones so far (teacher forcing), + L1 of a rollout that goes on from
    predictions. Needs `data.actions`; with `actions: change` the state of a frame is told too, and
    follows from the change when the model plans. The teacher's encoder is the model's own: it is
    kept beside the predictor.
    """

    kind: Literal["vjepa2ac"] = "vjepa2ac"
    """The objective."""

    teacher: str = Field(min_length=1)
    """A trained model whose encoder is read: `models:/NAME@alias`, `runs:/ID/model` or a folder
    with its files. Its patches, tubelets and pixels are those of the job."""

    encoder: AnyEncoder | None = None
    """The teacher's encoder: a size or its numbers. Default: read from the teacher when the
    training begins; written, it is compared with it, and `plan` can count it."""

    digest: str | None = None
    """The teacher's weights, 16 hex digits. Default: those that are found when the training
    begins; a run that goes on refuses any others."""

    rollout: PositiveInt = 2
    """Frames that are predicted from a clip's first frame, all but the first from predictions.
    1: teacher forcing alone."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return _with_encoder_preset(data)


AnyObjective = Annotated[
    Annotated[VJEPA2, Tag("vjepa2")]
    | Annotated[VJEPA21, Tag("vjepa21")]
    | Annotated[LeJEPA, Tag("lejepa")]
    | Annotated[LeWM, Tag("lewm")]
    | Annotated[FrozenTeacher, Tag("frozen")]
    | Annotated[PixelPrediction, Tag("pixels")]
    | Annotated[Supervised, Tag("supervised")]
    | Annotated[CausalPrediction, Tag("causal")]
    | Annotated[LatentDynamics, Tag("dynamics")]
    | Annotated[VJEPA2AC, Tag("vjepa2ac")]
    | Annotated[CustomComponent, Tag("custom")],
    Discriminator(lambda v: component_tag(v, "vjepa2")),
]

MaskedPrediction = VJEPA2 | VJEPA21 | LeJEPA | PixelPrediction | FrozenTeacher
"""Objectives that predict hidden tokens by the built-in predictor."""

DrawsMasks = MaskedPrediction | LatentDynamics
"""Objectives whose steps draw masks."""

Autoregressive = CausalPrediction | LeWM | LatentDynamics
"""Objectives that predict after every moment of a clip from it and all before it."""

HasPretrainedTeacher = FrozenTeacher | VJEPA2AC
"""Objectives with a teacher that was trained before and stays as it is."""

HasFrozenTargets = HasPretrainedTeacher | LatentDynamics
"""Objectives whose targets come from an encoder that stays as it is."""

SIGRegObjective = LeJEPA | LeWM
"""Objectives that hold features to N(0, I) by SIGReg, a statistic over clips."""
