"""AdamW over four parameter groups, and its guarded form for ZeRO stage 0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.job import Optim
from orchestrator.training.engine.schedule import learning_rate, weight_decay


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips, and leaves everything as it is when the gradient is not finite.

    It answers as DeepSpeed's sharded optimizers do (`overflow`, `_global_grad_norm`), so that
    the engine reads all stages in one way. DeepSpeed itself checks nothing at stage 0.
    """

    def __init__(self, groups: list[dict[str, Any]], max_norm: float, **options: Any) -> None:
        super().__init__(groups, **options)
        self.max_norm = max_norm
        self.overflow = False
        self._global_grad_norm = 0.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Clip to `max_norm`, then update; skipped and marked `overflow` for NaN or infinity."""
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        found = [g for g in gradients if g is not None]
        norm = nn.utils.get_total_norm(found)
        self._global_grad_norm = float(norm)
        self.overflow = not bool(torch.isfinite(norm))
        if self.overflow:
            return
        if 0 < self.max_norm < self._global_grad_norm:
            torch._foreach_mul_(found, self.max_norm / (self._global_grad_norm + 1e-6))
        super().step(closure)


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    optim: Optim,
    *,
    ema_module: str | None,
    zero_stage: int,
) -> torch.optim.AdamW:
    """AdamW over the trained parameters, as up to four groups.

    `ema_module` is the submodule that the teacher follows: its parameters fill groups of their
    own, so that its shards can be told from the rest. Vectors (biases, norms) do not decay.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            part = "followed" if ema_module and name.startswith(f"{ema_module}.") else "rest"
            decays = "decay" if parameter.ndim > 1 else "fixed"
            groups.setdefault(f"{part}-{decays}", []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": groups[key], "followed": key.startswith("followed"), "decays": "decay" in key}
        for key in sorted(groups)
    ]
    options: dict[str, Any] = {
        "lr": optim.lr,
        "betas": optim.betas,
        "eps": optim.eps,
        "weight_decay": 0.0,
        "fused": True,
    }
    if zero_stage == 0:
        return GuardedAdamW(settings, optim.clip, **options)
    return torch.optim.AdamW(settings, **options)


def apply_schedule(
    optimizer: torch.optim.Optimizer, optim: Optim, step: int
) -> tuple[float, float]:
    """Set learning rate and weight decay of step `step`; gives both."""
    rate, decay = learning_rate(optim, step), weight_decay(optim, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
        group["weight_decay"] = decay if group["decays"] else 0.0
    return rate, decay


def adam_state(optimizer: torch.optim.Optimizer, master: Tensor) -> dict[str, Tensor]:
    """Moments and step of one master tensor; made now where no step has made them yet.

    A state of zeros at step 0 is what AdamW itself begins with.
    """
    state: dict[str, Tensor] = optimizer.state[master]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
        state["exp_avg"] = torch.zeros_like(master, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(master, requires_grad=False)
    return state
