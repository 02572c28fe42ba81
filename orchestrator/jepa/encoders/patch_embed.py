"""From a video to its space-time patches, and one linear map for each of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.jepa.rope import Grid


def unpatchify(patches: Tensor, grid: Grid, patch: int, tubelet: int) -> Tensor:
    """What `patchify` took apart: [B, N, 3 * tubelet * patch^2] -> [B, 3, T, H, W]."""
    t, h, w = grid
    apart = patches.view(len(patches), t, h, w, 3, tubelet, patch, patch)
    whole = apart.permute(0, 4, 1, 5, 2, 6, 3, 7)
    return whole.reshape(len(patches), 3, t * tubelet, h * patch, w * patch)


class PatchEmbed(nn.Module):
    """One linear map per space-time patch: the published strided Conv3d, applied only where asked.

    The weight is that convolution's [dim, 3, tubelet, patch, patch], flattened to two axes.
    """

    def __init__(self, dim: int, patch: int, tubelet: int) -> None:
        super().__init__()
        self.patch, self.tubelet = patch, tubelet
        self.proj = nn.Linear(3 * tubelet * patch * patch, dim)

    def grid(self, x: Tensor) -> Grid:
        """Tokens along time, height and width of a video [B, 3, T, H, W]."""
        frames, height, width = x.shape[2:]
        return frames // self.tubelet, height // self.patch, width // self.patch

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, 3, T, H, W] -> [B, n or N, dim]."""
        t, h, w = self.grid(x)
        patches = patchify(x, self.patch, self.tubelet)
        if keep is None:
            out: Tensor = self.proj(patches.reshape(len(x), t * h * w, -1))
        else:
            clip = torch.arange(len(x), device=x.device)[:, None]
            chosen = patches[clip, keep // (h * w), keep // w % h, keep % w]
            out = self.proj(chosen.flatten(2))
        return out


def patchify(x: Tensor, patch: int, tubelet: int) -> Tensor:
    """[B, 3, T, H, W] -> [B, t, h, w, 3, tubelet, patch, patch], a view: nothing is copied."""
    t, h, w = x.shape[2] // tubelet, x.shape[3] // patch, x.shape[4] // patch
    patches = x.view(len(x), 3, t, tubelet, h, patch, w, patch)
    return patches.permute(0, 2, 4, 6, 1, 3, 5, 7)
