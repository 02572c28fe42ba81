"""V-JEPA 2's published training step, run from a checkout of its repository.

Nothing of it is kept here: its modules are imported from the path that is given, and the step
below does with them what `app/vjepa/train.py` does with one batch: forward of the target
encoder, of the encoder and the predictor, L1, AdamW, moving average.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.data.loader.batch import Batch
from orchestrator.errors import RequestError
from orchestrator.jepa.objectives import Objective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import VJEPA2, TrainJob, ViTConfig
from orchestrator.training.engine.optimizer import apply_schedule

MODULES = ("src.models.vision_transformer", "src.models.predictor", "src.masks.utils")


def vjepa2_step(
    checkout: Path, objective: Objective, job: TrainJob, device: torch.device
) -> Callable[[Batch], float]:
    """Its step for the sizes, the weights and the masks of ours; each call trains one batch.

    `objective` gives the initial weights, so that the first losses can be compared.

    Raises:
        RequestError: no such checkout, or a job that it has no counterpart for.
    """
    if not isinstance(job.objective, VJEPA2) or not isinstance(job.model.encoder, ViTConfig):
        raise RequestError(
            "the published step is V-JEPA 2 with its own encoder",
            where="objective, model.encoder",
            hint="compare a job with objective.kind vjepa2 and a built-in encoder",
        )
    with _imported_modules(checkout) as (vision, predictors, masks):
        encoder, predictor = _build(vision, predictors, objective, job)
        return _VJEPA2Step(encoder, predictor, masks.apply_masks, job, device)


class _VJEPA2Step:
    """One process; the wrappers that only reduce over ranks are left out, which favours it."""

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        apply_masks: Callable[..., list[Tensor]],
        job: TrainJob,
        device: torch.device,
    ) -> None:
        self.encoder, self.predictor = encoder.to(device), predictor.to(device)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        if job.scale.compile:
            for module in (self.encoder, self.target_encoder, self.predictor):
                module.compile()
        self.apply_masks, self.job, self.device = apply_masks, job, device
        self.mixed = job.scale.precision == "bf16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.mixed)
        self.step = 0
        groups = []
        for decays in (True, False):
            for module in (self.encoder, self.predictor):
                chosen = [
                    p
                    for n, p in module.named_parameters()
                    if (p.ndim > 1 and "bias" not in n) is decays
                ]
                groups.append({"params": chosen, "decays": decays})
        self.optimizer = torch.optim.AdamW(groups, betas=job.optim.betas, eps=job.optim.eps)

    def __call__(self, batch: Batch) -> float:
        clips = normalise(batch.video.to(self.device, non_blocking=True), torch.float32)
        masks = [(c.to(self.device), t.to(self.device)) for c, t in batch.masks]
        apply_schedule(self.optimizer, self.job.optim, self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            with torch.no_grad():
                features = self.target_encoder(clips)
                features = F.layer_norm(features, features.shape[-1:])
            losses = []
            for context, target in masks:
                found = self.predictor(self.encoder(clips, context), context, target, mask_index=0)
                (wanted,) = self.apply_masks(features, [target], concat=False)
                losses.append((found - wanted).abs().mean())
            loss = torch.stack(losses).mean()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.mixed:
            self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        momentum = float(self.job.objective.ema)  # type: ignore[union-attr]
        with torch.no_grad():
            followers: list[Tensor] = list(self.target_encoder.parameters())
            leaders: list[Tensor] = list(self.encoder.parameters())
            torch._foreach_mul_(followers, momentum)
            torch._foreach_add_(followers, leaders, alpha=1 - momentum)
        self.step += 1
        return float(loss.detach())


def _build(
    vision: ModuleType, predictors: ModuleType, objective: Objective, job: TrainJob
) -> tuple[nn.Module, nn.Module]:
    size, shape, small = job.model.encoder, job.data, job.model.predictor
    assert isinstance(size, ViTConfig)
    common = {
        "img_size": shape.size,
        "patch_size": job.model.patch,
        "num_frames": shape.frames,
        "tubelet_size": job.model.tubelet,
        "qkv_bias": True,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "use_rope": True,
        "use_activation_checkpointing": job.scale.activation_checkpointing,
    }
    encoder: nn.Module = vision.VisionTransformer(
        embed_dim=size.dim,
        depth=size.depth,
        num_heads=size.heads,
        mlp_ratio=size.mlp_ratio,
        use_sdpa=True,
        **common,
    )
    predictor: nn.Module = predictors.VisionTransformerPredictor(
        embed_dim=size.dim,
        predictor_embed_dim=small.dim,
        depth=small.depth,
        num_heads=small.heads,
        mlp_ratio=small.mlp_ratio,
        use_mask_tokens=True,
        num_mask_tokens=len(job.objective.masks),  # type: ignore[union-attr]
        **common,
    )
    weights = objective.state_dict()
    _fill(encoder, weights, "encoder.", {})
    _fill(predictor, weights, "predictor.", {f"predictor_{n}": n for n in _PREDICTOR_PARTS})
    return encoder, predictor


_PREDICTOR_PARTS = ("embed", "blocks", "norm", "proj")


def _fill(
    module: nn.Module, weights: dict[str, Tensor], prefix: str, parts: dict[str, str]
) -> None:
    """Our weights under its names; the mask tokens start at zero in both."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith("mask_tokens"):
                head, _, rest = name.partition(".")
                ours = weights[f"{prefix}{parts.get(head, head)}.{rest}"]
                parameter.copy_(ours.view(parameter.shape))


@contextmanager
def _imported_modules(checkout: Path) -> Iterator[list[ModuleType]]:
    """Its modules, imported from the checkout, which leaves no trace in `sys` afterwards.

    timm and einops, which they import and for these models never call, need not be installed.
    """
    if not (checkout / "src" / "models" / "vision_transformer.py").is_file():
        raise RequestError(
            "this is not a checkout of V-JEPA 2",
            where=str(checkout),
            hint="git clone https://github.com/facebookresearch/vjepa2 and give its path",
        )
    before = dict(sys.modules)
    sys.path.insert(0, str(checkout))
    for name, attribute in (("timm.models.layers", "drop_path"), ("einops", "rearrange")):
        _stub_module(name, attribute)
    try:
        yield [importlib.import_module(name) for name in MODULES]
    finally:
        sys.path.remove(str(checkout))
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in ("src", "timm", "einops"):
                del sys.modules[name]


def _stub_module(name: str, attribute: str) -> None:
    """An empty module for an import whose name is never called."""

    def called(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{name}.{attribute} is called after all: install it to compare")

    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    vars(sys.modules[name]).setdefault(attribute, called)
