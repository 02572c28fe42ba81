"""Linear codes of patches: the principal components of the data's own pixels, and never trained.

What a predictor is measured against stays the same from the first step to the last, so it cannot
collapse; and what moves weighs as much as it does in the picture, but for the spread of a
component, by whose square root a code is divided: what is fine and rare shall be heard too.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from orchestrator.jepa.encoders.patch_embed import PatchEmbed, patchify, unpatchify
from orchestrator.jepa.rope import Grid
from orchestrator.job import PCAEncoderConfig

MIN_COMPONENT_STD = 0.1
"""Of a component, in standard deviations of a pixel; what varies less is not blown up further."""


class PCAPatchEncoder(nn.Module):
    """Every patch by itself, by one linear map."""

    def __init__(self, config: PCAEncoderConfig, *, patch: int, tubelet: int) -> None:
        super().__init__()
        self.dim = config.dim
        self.patch_embed = PatchEmbed(config.dim, patch, tubelet)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised video [B, 3, T, H, W] -> codes [B, N, dim], or of the tokens `keep` [B, n]."""
        out: Tensor = self.patch_embed(x, keep)
        return out

    @torch.no_grad()
    def decode_to_pixels(self, z: Tensor, grid: Grid) -> Tensor:
        """The normalised video of least norm with these codes, [B, N, dim] -> [B, 3, T, H, W]."""
        proj = self.patch_embed.proj
        patches = (z - proj.bias) @ torch.linalg.pinv(proj.weight).T
        return unpatchify(patches, grid, self.patch_embed.patch, self.patch_embed.tubelet)

    @torch.no_grad()
    def fit(self, videos: Iterable[Tensor]) -> float:
        """Find the codes in normalised videos [B, 3, T, H, W]; in float64, so that what is found
        hardly depends on the machine.

        Returns:
            The share of the patches' variance that the codes hold.
        """
        width = self.patch_embed.proj.in_features
        count, total = 0, torch.zeros(width, dtype=torch.float64)
        products = torch.zeros(width, width, dtype=torch.float64)
        for video in videos:
            patches = patchify(video, self.patch_embed.patch, self.patch_embed.tubelet)
            rows = patches.reshape(-1, width).double()
            count, total = count + len(rows), total + rows.sum(0)
            products += rows.T @ rows
        mean = total / count
        variance, axes = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        variance, axes = variance.clamp(min=0).flip(0), axes.flip(1)[:, : self.dim]
        # An eigenvector's sign is arbitrary.
        peak = axes.gather(0, axes.abs().argmax(0, keepdim=True))
        spread = variance[: self.dim].sqrt()
        weight = axes * peak.sign() * spread.clamp(min=MIN_COMPONENT_STD) ** -0.5
        # Codes have a mean of 0 and, over all their numbers, a mean square of 1.
        scale = (spread**2 / spread.clamp(min=MIN_COMPONENT_STD)).mean().clamp(min=1e-12) ** -0.5
        self.patch_embed.proj.weight.copy_((weight * scale).T)
        self.patch_embed.proj.bias.copy_(-(mean @ weight) * scale)
        return float(variance[: self.dim].sum() / variance.sum().clamp(min=1e-12))
