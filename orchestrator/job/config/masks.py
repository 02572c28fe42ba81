"""Masks as a job names them, and how many tokens they show and hide: arithmetic, checked before
anything starts."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag

from orchestrator.errors import RequestError
from orchestrator.job.config.base import CustomComponent, Range, Section, component_tag


class MultiBlock(Section):
    """V-JEPA 2's multi-block mask, of a fixed count: targets are a union of blocks.

    Blocks are drawn as in V-JEPA (arXiv 2404.08471, section 3.2); the union is then trimmed or
    grown along its border to exactly `targets` tokens, and `context` tokens are drawn from
    the rest, so that shapes are static and no clip depends on its batch.
    """

    kind: Literal["multiblock"] = "multiblock"
    """Union of space-time blocks."""

    blocks: PositiveInt = 8
    """Blocks in the union."""

    spatial: float = Field(0.15, gt=0, le=1)
    """Area of a block as a share of the frame."""

    temporal: float = Field(1.0, gt=0, le=1)
    """Length of a block as a share of the clip."""

    aspect: Range = (0.75, 1.5)
    """Range of a block's height over width."""

    targets: PositiveFloat = 0.5
    """Tokens to predict: a share of all below 1, a count from 1 on."""

    context: PositiveFloat = 0.24
    """Tokens the encoder sees: a share of all below 1, a count from 1 on."""

    truncate: bool = False
    """The original's way instead: cut every clip of a batch to the batch's smallest counts."""


class Future(Section):
    """A mask that hides the future: context is the first tubelets, targets are what follows."""

    kind: Literal["future"] = "future"
    """Past predicts future."""

    visible: tuple[PositiveInt, PositiveInt] = (2, 2)
    """Fewest and most tubelets seen, drawn per clip."""

    targets: PositiveFloat = 0.7
    """Tokens to predict: a share of all below 1, a count from 1 on."""

    context: PositiveFloat = 0.25
    """Tokens the encoder sees: a share of all below 1, a count from 1 on."""


AnyMask = Annotated[
    Annotated[MultiBlock, Tag("multiblock")]
    | Annotated[Future, Tag("future")]
    | Annotated[CustomComponent, Tag("custom")],
    Discriminator(lambda v: component_tag(v, "multiblock")),
]

# Counts: what the published sampler leaves after it cuts a batch of 24 to its smallest (mean of
# 100 batches at 2,048 tokens: context .23 and .05, targets .48 and .69).
VJEPA2_MASKS = (
    MultiBlock(blocks=8, spatial=0.15, targets=0.5, context=0.24),
    MultiBlock(blocks=2, spatial=0.7, targets=0.7, context=0.06),
)


def mask_counts(mask: MultiBlock | Future, tokens: int) -> tuple[int, int]:
    """Tokens of the context and of the targets, (n_c, n_t), of a clip of `tokens` tokens.

    Shares are rounded down, so that shares that sum to 1 always fit; at least one token each.
    With `truncate` these are what the job names; a batch's real counts follow from its blocks.

    Raises:
        RequestError: a count is no whole number, or n_c + n_t exceeds `tokens`.
    """
    n_c = _count(mask.context, tokens, "context")
    n_t = _count(mask.targets, tokens, "targets")
    if n_c + n_t > tokens and not (isinstance(mask, MultiBlock) and mask.truncate):
        raise RequestError(
            f"context {n_c} + targets {n_t} are more than the {tokens} tokens of a clip",
            hint="lower context or targets, or make more tokens (data.size, data.frames)",
        )
    return n_c, n_t


def check_mask(mask: MultiBlock | Future, grid: tuple[int, int, int]) -> None:
    """Refuse a mask that cannot be drawn on a grid of (time, height, width) tokens.

    Raises:
        RequestError: more tokens are asked for than there are, or than the past or the future
            of a `future` mask holds.
    """
    time, height, width = grid
    n_c, n_t = mask_counts(mask, time * height * width)
    if isinstance(mask, MultiBlock):
        _check_blocks(mask)
        return
    fewest, most = mask.visible
    if time == 1:
        raise RequestError(
            "a clip of one moment has no future", hint="take a multiblock mask, or more frames"
        )
    if fewest > most or most >= time:
        raise RequestError(
            f"visible {fewest} to {most} tubelets of a clip of {time}",
            hint=f"give two numbers in rising order between 1 and {time - 1}",
        )
    past, future = fewest * height * width, (time - most) * height * width
    if n_c > past:
        raise RequestError(
            f"context {n_c} is more than the {past} tokens of {fewest} visible tubelets",
            hint="lower context or raise visible",
        )
    if n_t > future:
        raise RequestError(
            f"targets {n_t} are more than the {future} tokens after {most} visible tubelets",
            hint="lower targets or visible",
        )


def _check_blocks(mask: MultiBlock) -> None:
    if mask.aspect[0] > mask.aspect[1]:
        raise RequestError(
            f"aspect {mask.aspect[0]} to {mask.aspect[1]} is no range",
            hint="give two numbers in rising order",
        )
    if mask.truncate and mask.spatial == 1 and mask.temporal == 1:
        raise RequestError(
            "a block covers the whole clip and leaves no context",
            hint="lower spatial or temporal",
        )


def _count(share: float, tokens: int, name: str) -> int:
    if share < 1:
        # 0.29 * 100 is 28.999...: rounding down must not lose a token to binary fractions.
        return max(1, math.floor(share * tokens + 1e-6))
    if share != int(share):
        raise RequestError(
            f"{name} {share} is no count", hint="a share is below 1, a count is a whole number"
        )
    return int(share)
