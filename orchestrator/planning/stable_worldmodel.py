"""stable-worldmodel's protocols, both ways: its models under our solvers, ours under its solvers.

Its words (github.com/galilai-group/stable-worldmodel, `protocols.py`): an info dict holds tensors
of B environments, `pixels` and `goal` among them; a `Costable` scores candidates [B, S, H, D] by
`get_cost(info, candidates)` -> [B, S], info spread over the S candidates; a `Dynamics` has
`encode(info)`, which adds `emb`, and `rollout(info, candidates)`, which adds `predicted_emb`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.planning.base import Cost, PlannableModel

Info = dict[str, Any]


class Costable(Protocol):
    """A model that knows its goal, and what plans cost."""

    def get_cost(self, info_dict: Info, action_candidates: Tensor) -> Tensor:
        """[B, S, H, D] -> [B, S]."""


class StableWorldModelDynamics(Protocol):
    """A model that predicts embeddings."""

    def encode(self, x: Info) -> Info:
        """Adds `emb`, [B, T, ...], of `pixels`."""

    def rollout(self, info_dict: Info, action_candidates: Tensor) -> Info:
        """Adds `predicted_emb`, [B, S, T + H, ...]: what was seen, then what follows."""


def costable_cost(model: Costable, info: Info) -> Cost:
    """What a `Costable` says of candidates: to be given to a solver's `solve`.

    Args:
        info: tensors of B environments, each [B, ...]; what else is in it goes along as it is.
    """
    spread: dict[int, Info] = {}

    def cost(candidates: Tensor) -> Tensor:
        count = candidates.shape[1]
        if count not in spread:
            spread[count] = _expand_info(info, count)
        # One dict for all iterations: models keep embeddings of observation and goal in it.
        return model.get_cost(spread[count], candidates)

    return cost


def dynamics_cost(
    model: StableWorldModelDynamics, info: Info, objective: Callable[[Info], Tensor] | None = None
) -> Cost:
    """What a `Dynamics` predicts of candidates, as a cost.

    Args:
        objective: from an info dict with `predicted_emb` and `goal_emb` to [B, S]. Default: the
            squared distance of the last predicted embedding from the goal's.
    """
    goal = model.encode({"pixels": info["goal"]})["emb"]
    judge = objective or _last_embedding_mse

    class Rolled:
        def get_cost(self, info_dict: Info, action_candidates: Tensor) -> Tensor:
            return judge(model.rollout({**info_dict, "goal_emb": goal}, action_candidates))

    return costable_cost(Rolled(), info)


def as_costable(model: PlannableModel) -> StableWorldModelAdapter:
    """A model of ours as its solvers and evaluators take one."""
    return StableWorldModelAdapter(model)


class StableWorldModelAdapter:
    """`Costable` and `Dynamics` of stable-worldmodel in one, of a model of ours.

    Pictures are uint8, with channels last or first: give its policy no `transform` and no
    `process`. Candidates are in the world's units. Where `pixels` holds T > 1 frames, the actions
    between them are `action_history`, [B, S, T - 1, D].
    """

    def __init__(self, model: PlannableModel) -> None:
        self.model = model

    def encode(self, x: Info) -> Info:
        """`pixels` [B, T, ...] -> `emb` [B, T, area * dim], and `area`."""
        frames = _channels_last(x["pixels"])
        tokens = self.model.encode(frames)
        x["area"] = tokens.shape[1] // frames.shape[1]
        x["emb"] = tokens.reshape(*frames.shape[:2], -1)
        return x

    def rollout(self, info_dict: Info, action_candidates: Tensor) -> Info:
        """`pixels` [B, S, T, ...] and candidates [B, S, H, D] -> `predicted_emb`."""
        rows, count = action_candidates.shape[:2]
        if "area" not in info_dict:
            made = self.encode({"pixels": info_dict["pixels"][:, 0]})
            info_dict["emb"], info_dict["area"] = made["emb"], made["area"]
        emb = info_dict["emb"]
        moments, width = emb.shape[1:]
        past = info_dict.get("action_history")
        actions = action_candidates if past is None else torch.cat([past, action_candidates], 2)
        known = emb[:, None].expand(-1, count, -1, -1).flatten(0, 1)
        z = known.reshape(rows * count, moments * info_dict["area"], -1)
        ahead = self.model.predict(z, actions.flatten(0, 1).to(z.dtype))
        ahead = ahead.reshape(rows * count, -1, width)
        whole = torch.cat([known, ahead.to(known)], 1)
        info_dict["predicted_emb"] = whole.view(rows, count, -1, width)
        return info_dict

    def criterion(self, info_dict: Info, action_candidates: Tensor | None = None) -> Tensor:
        """The squared distance of the last predicted embedding from the goal's, [B, S]."""
        return _last_embedding_mse(info_dict)

    def get_cost(self, info_dict: Info, action_candidates: Tensor) -> Tensor:
        """Candidates [B, S, H, D] -> [B, S]: observation and goal are encoded once."""
        if "goal_emb" not in info_dict:
            info_dict["goal_emb"] = self.encode({"pixels": info_dict["goal"][:, 0]})["emb"]
        return self.criterion(self.rollout(info_dict, action_candidates), action_candidates)


def _last_embedding_mse(info: Info) -> Tensor:
    """Mean squared difference of `predicted_emb` [B, S, T, ...] and `goal_emb` [B, T, ...]."""
    apart: Tensor = info["predicted_emb"][:, :, -1] - info["goal_emb"][:, None, -1]
    return apart.square().flatten(2).mean(-1)


def _expand_info(info: Info, count: int) -> Info:
    """Every tensor once for each of `count` candidates, [B, ...] -> [B, count, ...]; no copies."""
    return {
        key: one[:, None].expand(-1, count, *one.shape[1:]) if isinstance(one, Tensor) else one
        for key, one in info.items()
    }


def _channels_last(pixels: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] from that, or from channels first.

    Raises:
        RequestError: they are something else.
    """
    if (
        pixels.dtype != torch.uint8
        or pixels.ndim != 5
        or 3 not in (pixels.shape[2], pixels.shape[-1])
    ):
        raise RequestError(
            f"got {str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}",
            where="pixels",
            hint="give uint8 pictures [B, T, H, W, 3] or [B, T, 3, H, W]: the policy's transform"
            " and process are to be left out",
        )
    return pixels if pixels.shape[-1] == 3 else pixels.movedim(2, -1)
