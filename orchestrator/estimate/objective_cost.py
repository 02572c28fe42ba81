"""What a step of an objective is made of: parameters, sequences, matrix products.

`ObjectiveCost` is that of an objective that predicts hidden tokens by the built-in predictor
(V-JEPA 2). Others override what differs, each in its folder's `cost.py`; an objective names its
class by `ObjectiveConfig.cost_class`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from orchestrator.estimate.layer_cost import (
    BuiltInEncoder,
    ConvEncoderCost,
    RecurrentPredictorCost,
    TransformerCost,
    encoder_cost,
    patch_embed_cost,
)
from orchestrator.estimate.token_counts import TokenCounts, count_tokens, token_masks
from orchestrator.job import (
    ConvEncoderConfig,
    Future,
    MultiBlock,
    PCAEncoderConfig,
    TrainJob,
    ViTConfig,
    encodes_timesteps_separately,
)
from orchestrator.job.loading.custom_components import import_component

LinearMap = tuple[int, int]
"""Width in and width out of a linear map with a bias."""


class ObjectiveCost:
    """Counts of one training clip of a job whose parts are `countable`."""

    def __init__(self, job: TrainJob) -> None:
        self.job, self.model = job, job.model
        self.keys: Any = job.objective_config
        """The objective's own keys."""
        self.grid = job.grid
        self.tokens: TokenCounts = count_tokens(job)

    # -- shapes ------------------------------------------------------------------------------

    @property
    def encoder_config(self) -> BuiltInEncoder:
        """The encoder whose features the predictor reads."""
        return _built_in(self.model.encoder)

    @cached_property
    def encoder(self) -> TransformerCost | ConvEncoderCost:
        """Blocks of that encoder."""
        return self._blocks(self.encoder_config)

    @cached_property
    def predictor(self) -> TransformerCost | RecurrentPredictorCost:
        """Blocks of the predictor."""
        return TransformerCost.from_config(self.model.predictor)

    @property
    def patch_embed(self) -> tuple[int, int, float]:
        """Of the encoder's first layer: weights, biases, forward FLOPs for a token."""
        return patch_embed_cost(self.encoder_config, self.model)

    @property
    def frozen_encoder_config(self) -> BuiltInEncoder | None:
        """The encoder of a frozen or fitted teacher."""
        config = self.job.objective_config
        if config.pretrained_teacher is not None:
            return _built_in(config.pretrained_teacher.encoder)
        return _built_in(self.model.encoder) if config.teacher_type == "fitted" else None

    @property
    def has_ema_teacher(self) -> bool:
        """Whether the teacher is a moving average of the encoder."""
        return self.job.objective_config.teacher_type == "ema"

    @cached_property
    def frozen_teacher(self) -> TransformerCost | ConvEncoderCost | None:
        """Blocks of a frozen or fitted teacher."""
        config = self.frozen_encoder_config
        return None if config is None else self._blocks(config)

    @property
    def teacher(self) -> TransformerCost | ConvEncoderCost | None:
        """Blocks of whatever gives targets; None: no forward pass of its own."""
        return self.encoder if self.has_ema_teacher else self.frozen_teacher

    @property
    def teacher_patch_embed(self) -> tuple[int, int, float]:
        """As `patch_embed`, of whatever gives targets."""
        return patch_embed_cost(self.frozen_encoder_config or self.encoder_config, self.model)

    @property
    def feature_layers(self) -> int:
        """Layers of the encoder that are read and predicted."""
        return max(1, len(self.model.levels))

    @property
    def embedding_dim(self) -> int:
        """Width of what the predictor reads."""
        return self.encoder.dim

    @property
    def prediction_dim(self) -> int:
        """Values of one prediction of a token."""
        return self.feature_layers * (self.frozen_teacher or self.encoder).dim

    @property
    def num_horizons(self) -> int:
        """Predictions that the predictor gives for a token in one pass."""
        return 1

    @property
    def predicted_tokens(self) -> list[int]:
        """Tokens that are predicted under each mask."""
        return [targets for _, targets in self.tokens.masks]

    @property
    def pixels_per_token(self) -> int:
        """Values that the patch embedding turns into one token."""
        return 3 * self.model.tubelet * self.model.patch**2

    # -- parameters --------------------------------------------------------------------------

    def encoder_tensors(self) -> Iterator[int]:
        """Elements of every trained tensor of the encoder."""
        if self.job.objective_config.trains_encoder:
            yield from self.patch_embed[:2]
            yield from self.encoder.tensors()
            yield from [self.encoder.dim] * 2 * (self.feature_layers - 1)

    def predictor_tensors(self) -> Iterator[int]:
        """Elements of every tensor behind the encoder."""
        if self.tokens.masks:
            yield len(token_masks(self.job)) * self.predictor.dim
        yield from _tensors(self.input_maps + self.action_input_maps + self.action_maps)
        yield from self.predictor.tensors()
        yield from self.output_tensors()

    def output_tensors(self) -> Iterator[int]:
        """Elements of every tensor behind the predictor's blocks."""
        out = self.prediction_dim * self.num_horizons
        yield from (self.predictor.dim * out, out)

    @property
    def input_maps(self) -> list[LinearMap]:
        """By which the predictor reads a token."""
        if self.feature_layers == 1:
            return [(self.embedding_dim, self.predictor.dim)]
        dim = self.encoder.dim
        return [(self.feature_layers * dim, dim), (dim, self.predictor.dim)]

    @property
    def action_input_maps(self) -> list[LinearMap]:
        """That read an action's or a state's numbers; a width that only the data says is 0."""
        return []

    @property
    def action_maps(self) -> list[LinearMap]:
        """All other maps that exist because of actions."""
        return []

    # -- FLOPs and activations ---------------------------------------------------------------

    @property
    def encoder_lengths(self) -> list[int]:
        """Lengths of the sequences of a clip that the encoder reads with a gradient."""
        return [context for context, _ in self.tokens.masks]

    @property
    def predictor_lengths(self) -> list[int]:
        """Lengths of the sequences of a clip that the predictor reads."""
        return [context + targets for context, targets in self.tokens.masks]

    def predictor_flops(self) -> float:
        """Forward FLOPs of a clip behind the encoder."""
        out = 2.0 * self.predictor.dim * self.prediction_dim * self.num_horizons
        total = out * sum(self.predicted_tokens)
        for context, targets in self.tokens.masks:
            total += self.predictor.flops(context + targets) + flops_of(self.input_maps) * context
        return total

    def flops_without_input_gradient(self) -> float:
        """Of those: of maps whose input needs no gradient."""
        return 0.0

    def encoder_projection_flops(self) -> float:
        """Forward FLOPs of a clip between the encoder and the predictor."""
        return 0.0

    @property
    def sigreg_projections(self) -> int:
        """Random projections of one clip's features in SIGReg; 0: there is no SIGReg."""
        return 0

    @property
    def sigreg_sets(self) -> int:
        """Sets of clips that SIGReg's statistic acts on."""
        batch = self.job.scale.global_batch
        return batch // (self.keys.statistic_clips or batch)

    def extra_statistic_flops(self) -> float:
        """FLOPs of a clip, forward and backward, in a statistic over sets of clips that is not
        SIGReg; where there is one, a rank that accumulates runs a first pass."""
        return 0.0

    def extra_activations(self, b: int) -> float:
        """Bytes of a clip that the forward keeps beside blocks and predictions, in a compute dtype
        of `b` bytes."""
        if self.feature_layers == 1:
            return 0.0
        # The layers side by side, and what lies between the two maps that read them.
        read = sum(context for context, _ in self.tokens.masks)
        return float(read * (self.feature_layers + 2) * self.encoder.dim * b)

    def extra_video_values(self) -> float:
        """Values of a clip's video that are held once more."""
        return 0.0

    def _blocks(self, encoder: BuiltInEncoder) -> TransformerCost | ConvEncoderCost:
        separate = self.job.objective_config.encodes_single_frames or encodes_timesteps_separately(
            encoder
        )
        spans = (self.grid[1] * self.grid[2],) if separate else ()
        return encoder_cost(encoder, self.model, spans)


def flops_of(maps: list[LinearMap]) -> float:
    """Forward FLOPs of linear maps on one token."""
    return sum(2.0 * wide * narrow for wide, narrow in maps)


def objective_cost(job: TrainJob) -> ObjectiveCost:
    """The cost of a job whose parts are `countable`."""
    path = job.objective_config.cost_class
    assert path is not None
    cost: ObjectiveCost = import_component(path)(job)
    return cost


def countable(job: TrainJob) -> bool:
    """Whether the objective states its cost and every other part is built in: what a user's own
    part costs, only building it shows."""
    config = job.objective_config
    if config.cost_class is None:
        return False
    teacher = config.pretrained_teacher
    encoders: list[object] = [] if teacher is None else [teacher.encoder]
    if teacher is None or config.trains_encoder:
        encoders.append(job.model.encoder)
    masks = token_masks(job)
    return all(_is_built_in(encoder) for encoder in encoders) and all(
        isinstance(mask, (MultiBlock, Future)) for mask in masks
    )


def _tensors(maps: list[LinearMap]) -> Iterator[int]:
    for wide, narrow in maps:
        yield from (wide * narrow, narrow)


def _is_built_in(encoder: object) -> bool:
    return isinstance(encoder, ViTConfig | ConvEncoderConfig | PCAEncoderConfig)


def _built_in(encoder: object) -> BuiltInEncoder:
    assert isinstance(encoder, ViTConfig | ConvEncoderConfig | PCAEncoderConfig)
    return encoder
