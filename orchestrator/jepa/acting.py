"""A trained model that acts: it can be told what is done, and says what follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.jepa.block_causal import BlockCausalPredictor, each_frame
from orchestrator.jepa.encoder import encoder_width
from orchestrator.jepa.frames import FramePredictor
from orchestrator.jepa.parts import AnyPredictor, ModelConfig, fresh_parts
from orchestrator.jepa.world import WorldModel
from orchestrator.job import Act


class ActingModel(WorldModel):
    """A world model with actions: one to plan with (`planning.base.Dynamics`).

    What follows a clip depends on what is done in it, so by itself it foresees nothing: judges of
    what happens by itself are told that it has no `masks`.
    """

    def __init__(
        self, config: ModelConfig, encoder: nn.Module, predictor: AnyPredictor | None
    ) -> None:
        super().__init__(config, encoder, predictor)
        assert config.act is not None
        assert config.act.block is not None
        self.act: Act = config.act
        """What it was told of actions."""
        self.block: int = config.act.block
        """Control steps of a model step."""
        self.history = config.grid_of(config.frames)[0] - 1
        """Most moments that `predict` reads: as many as in training."""

    @property
    def masks(self) -> int:
        """0: without actions nothing is foreseen."""
        return 0

    @property
    def horizons(self) -> int:
        """0: without actions nothing is foreseen."""
        return 0

    @torch.no_grad()
    def predict(self, z: Tensor, actions: Tensor, states: Tensor | None = None) -> Tensor:
        """What follows, moment by moment, from the last `history` moments and predictions.

        Args:
            z: features of the h moments so far, as `encode` gives them: [B, h * area, dim].
            actions: [B, m, D], m >= h, in the world's own units: h - 1 between the moments so far,
                then what is done next. A block's control steps lie side by side.
            states: [B, h, S] in the world's own units, where changes of the state are told; those
                that follow are its own sums. Else not read.

        Returns:
            float32 [B, (m - h + 1) * area, dim].

        Raises:
            RequestError: the shapes are others.
        """
        self._check_told(z, actions)
        device = next(self.encoder.parameters()).device
        z, told = z.to(device), actions.to(device, torch.float32)
        if isinstance(self.predictor, FramePredictor):
            return self.predictor.follow(z, told, self.history).float()
        assert isinstance(self.predictor, BlockCausalPredictor)
        stood = None
        if self.predictor.changes:
            stood = self._check_states(states, z).to(device, torch.float32)
        return self.predictor.follow(z, told, self.history, stood).float()

    def _features(self, pixels: Tensor, keep: Tensor | None) -> Tensor:
        if not isinstance(self.predictor, BlockCausalPredictor):
            return super()._features(pixels, keep)
        if keep is not None:  # whole frames in order
            pixels = pixels[:, :, : keep.shape[1] // self.clip.area]
        return each_frame(self.encoder, pixels, self.config.model.tubelet)

    def _check_told(self, z: Tensor, actions: Tensor) -> None:
        area, dim, width = self.clip.area, encoder_width(self.encoder), self.act.width
        if z.ndim != 3 or not z.shape[1] or z.shape[1] % area or z.shape[2] != dim:
            raise RequestError(
                f"got {list(z.shape)}",
                where="z",
                mend=f"give what encode gives: [B, moments * {area}, {dim}]",
            )
        moments = z.shape[1] // area
        if actions.ndim != 3 or actions.shape[0] != len(z) or actions.shape[2] != width:
            raise RequestError(
                f"got {list(actions.shape)}",
                where="actions",
                mend=f"give [{len(z)}, moments, {width}]: {self._what_is_told()}",
            )
        if actions.shape[1] < moments:
            raise RequestError(
                f"{actions.shape[1]} actions for {moments} moments",
                where="actions",
                mend="give those between the moments so far, then what is done next",
            )

    def _check_states(self, states: Tensor | None, z: Tensor) -> Tensor:
        wanted = [len(z), z.shape[1] // self.clip.area, self.act.width]
        if states is None or list(states.shape) != wanted:
            raise RequestError(
                "none are given" if states is None else f"got {list(states.shape)}",
                where="states",
                mend=f"give {wanted}: the state at each of the moments so far",
            )
        return states

    def _what_is_told(self) -> str:
        if self.act.actions == "change":
            return "how the state changes"
        return f"the actions of {self.block} control steps, side by side"


def assemble(config: ModelConfig, encoder: nn.Module, predictor: AnyPredictor | None) -> WorldModel:
    """The model of these parts, ready to encode; one to plan with where it was told of actions."""
    kind = WorldModel if config.act is None else ActingModel
    return kind(config, encoder, predictor).eval().requires_grad_(False)


def random_model(config: ModelConfig, seed: int) -> WorldModel:
    """A model of the same shape that has learnt nothing: what a trained one must beat."""
    return assemble(config, *fresh_parts(config, seed))
