"""A trained model that acts: it can be told what is done, and says what follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.jepa.encoders.vision_transformer import encoder_width
from orchestrator.jepa.model_config import ModelConfig, randomly_initialized_modules
from orchestrator.jepa.objectives.vjepa2ac.predictor import encode_frames_separately
from orchestrator.jepa.predictors.action_conditioning import require_statistics
from orchestrator.jepa.world_model import WorldModel
from orchestrator.job import Actions, import_component
from orchestrator.job.config.planning import AnySolver
from orchestrator.planning.goal_cost import rollout_plans_one_by_one
from orchestrator.planning.plan_api import action_bounds, plan_actions


class ActionConditionedModel(WorldModel):
    """A world model with actions: one to plan with (`planning.base.PlannableModel`).

    What follows a clip depends on what is done in it, so by itself it foresees nothing: judges of
    what happens by itself are told that it has no `masks`.
    """

    def __init__(
        self, config: ModelConfig, encoder: nn.Module, predictor: nn.Module | None
    ) -> None:
        super().__init__(config, encoder, predictor)
        assert config.actions is not None
        assert config.actions.frameskip is not None
        self.act: Actions = config.actions
        """What it was told of actions."""
        self.block: int = config.actions.frameskip
        """Control steps of a model step."""
        self.history = config.token_grid_of(config.frames)[0] - 1
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
        self._check_features_and_actions(z, actions)
        device = next(self.encoder.parameters()).device
        z, told = z.to(device), actions.to(device, torch.float32)
        given: tuple[Tensor, ...] = ()
        if self.predictor.actions_are_state_deltas:
            given = (self._check_states(states, z).to(device, torch.float32),)
        predicted: Tensor = self.predictor.rollout(z, told, self.history, *given)
        return predicted.float()

    @torch.no_grad()
    def branch(
        self, z: Tensor, past: Tensor, plans: Tensor, states: Tensor | None = None
    ) -> Tensor:
        """What follows each of many plans from one past, as `predict` says it, in less time.

        Args:
            z: features of the h moments so far, [B, h * area, dim].
            past: what was done between them, [B, h - 1, D].
            plans: what is done next, [B, N, H, D].
            states: as `predict` takes them.

        Returns:
            float32 [B, N, H * area, dim].

        Raises:
            RequestError: the shapes are others.
        """
        within = z.shape[1] // self.clip.tokens_per_timestep + plans.shape[2] - 1 <= self.history
        path = self.config.objective_config_class.plan_rollout
        if path is None or not within:
            return rollout_plans_one_by_one(self, z, past, plans, states)
        self._check_features_and_actions(z, torch.cat([past, plans[:, 0].to(past)], 1))
        device = next(self.encoder.parameters()).device
        told = (one.to(device, torch.float32) for one in (past, plans))
        predicted: Tensor = import_component(path)(self.predictor, z.to(device), *told)
        return predicted.float()

    def plan(
        self,
        observation: Tensor | npt.NDArray[np.uint8],
        goal: Tensor | npt.NDArray[np.uint8],
        *,
        horizon: int = 5,
        bounds: tuple[Sequence[float], Sequence[float]] | None = None,
        solver: AnySolver | None = None,
        past: Tensor | None = None,
        states: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """What to do to see `goal`, from what is seen now.

        Args:
            observation: uint8 [H, W, 3], or [T, H, W, 3]: T moments, a model step apart.
            goal: uint8 [H, W, 3].
            horizon: model steps that are planned, `block` control steps each.
            bounds: least and largest value of each number of an action (or change); default:
                two standard deviations around the training data's mean.
            solver: an `orchestrator.job.config.planning` section: CEM (the default) or MPPI.
            past: what was done between T > 1 moments, [(T - 1) * block, A].
            states: [T, S], where changes of the state are told.
            seed: of the search.

        Returns:
            float32 [horizon * block, A] in the world's units; of changes [horizon, S].

        Raises:
            RequestError: an observation, a goal, bounds or a past of another shape.
        """
        known = require_statistics(self.act)
        mean, std, block = known.action_mean, known.action_std, self.block
        if self.act.representation == "change":
            mean, std, block = (0.0,) * len(known.state_std), known.state_std, 1
        spread = [2 * each for each in std]
        low, high = bounds or (
            [m - s for m, s in zip(mean, spread, strict=True)],
            [m + s for m, s in zip(mean, spread, strict=True)],
        )
        found = plan_actions(
            self,
            observation,
            goal,
            action_bounds(low, high, block),
            horizon=horizon,
            solver=solver,
            past_actions=None if past is None else past.reshape(-1, block * past.shape[-1]),
            states=states,
            seed=seed,
        )
        return found.reshape(horizon * block, -1)

    def _encode_normalized(self, pixels: Tensor, keep: Tensor | None) -> Tensor:
        if not self.config.objective_config_class.encodes_single_frames:
            return super()._encode_normalized(pixels, keep)
        if keep is not None:  # whole frames in order
            pixels = pixels[:, :, : keep.shape[1] // self.clip.tokens_per_timestep]
        return encode_frames_separately(self.encoder, pixels, self.config.model.tubelet)

    def _check_features_and_actions(self, z: Tensor, actions: Tensor) -> None:
        area, dim, width = (
            self.clip.tokens_per_timestep,
            encoder_width(self.encoder),
            self.act.action_dim,
        )
        if z.ndim != 3 or not z.shape[1] or z.shape[1] % area or z.shape[2] != dim:
            raise RequestError(
                f"got {list(z.shape)}",
                where="z",
                hint=f"give what encode gives: [B, moments * {area}, {dim}]",
            )
        moments = z.shape[1] // area
        if actions.ndim != 3 or actions.shape[0] != len(z) or actions.shape[2] != width:
            raise RequestError(
                f"got {list(actions.shape)}",
                where="actions",
                hint=f"give [{len(z)}, moments, {width}]: {self._action_description()}",
            )
        if actions.shape[1] < moments:
            raise RequestError(
                f"{actions.shape[1]} actions for {moments} moments",
                where="actions",
                hint="give those between the moments so far, then what is done next",
            )

    def _check_states(self, states: Tensor | None, z: Tensor) -> Tensor:
        wanted = [len(z), z.shape[1] // self.clip.tokens_per_timestep, self.act.action_dim]
        if states is None or list(states.shape) != wanted:
            raise RequestError(
                "none are given" if states is None else f"got {list(states.shape)}",
                where="states",
                hint=f"give {wanted}: the state at each of the moments so far",
            )
        return states

    def _action_description(self) -> str:
        if self.act.representation == "change":
            return "how the state changes"
        return f"the actions of {self.block} control steps, side by side"


def build_world_model(
    config: ModelConfig, encoder: nn.Module, predictor: nn.Module | None
) -> WorldModel:
    """The model of these parts, ready to encode; one to plan with where it was told of actions."""
    kind = WorldModel if config.actions is None else ActionConditionedModel
    return kind(config, encoder, predictor).eval().requires_grad_(False)


def randomly_initialized_model(config: ModelConfig, seed: int) -> WorldModel:
    """A model of the same shape that has learnt nothing: what a trained one must beat."""
    return build_world_model(config, *randomly_initialized_modules(config, seed))
