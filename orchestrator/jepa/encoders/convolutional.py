"""A convolutional encoder of moments, for worlds that are small and quickly seen.

A stage halves a picture by a convolution and goes on with residual blocks (arXiv 1512.03385, in the
order norm, activation, convolution of arXiv 1603.05027). Norms are over groups of channels (arXiv
1803.08494): a batch norm would depend on what a micro-batch holds, and the loss with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.job import ConvEncoderConfig

STEM_KERNEL_SIZE, KERNEL_SIZE, NORM_GROUPS = 4, 3, 8
"""Kernel of the first convolution, of all others, and groups of a norm."""


class ConvResidualBlock(nn.Module):
    """x + what two convolutions make of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, channels, KERNEL_SIZE, padding="same")
        self.conv2 = nn.Conv2d(channels, channels, KERNEL_SIZE, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same."""
        out: Tensor = x + self.conv2(F.gelu(self.conv1(F.gelu(self.norm(x)))))
        return out


class ConvolutionalEncoder(nn.Module):
    """Every moment by itself; the last stage's places are the tokens."""

    def __init__(self, config: ConvEncoderConfig, *, patch: int, tubelet: int) -> None:
        super().__init__()
        self.dim, self.patch, self.tubelet = config.dim, patch, tubelet
        first, *rest = config.channels(patch)
        stages: list[nn.Module] = [
            nn.Conv2d(3 * tubelet, first, STEM_KERNEL_SIZE, stride=2, padding=1)
        ]
        before = first
        for channels in rest:
            stages += [nn.GELU(), nn.Conv2d(before, channels, KERNEL_SIZE, stride=2, padding=1)]
            stages += [ConvResidualBlock(channels) for _ in range(config.blocks)]
            before = channels
        self.stages = nn.Sequential(*stages, nn.GELU())

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode a video, or only moments of it.

        Args:
            x: normalised video [B, 3, T, H, W]; T and H, W divide by tubelet and patch.
            keep: ids of all tokens of whole moments in order, int64 [B, n], or None for all N.

        Returns:
            [B, n or N, dim].
        """
        frames, height, width = x.shape[2:]
        moments = x.view(len(x), 3, frames // self.tubelet, self.tubelet, height, width)
        moments = moments.permute(0, 2, 1, 3, 4, 5)  # [B, moments, 3, tubelet, H, W]
        if keep is not None:
            area = (height // self.patch) * (width // self.patch)
            clip = torch.arange(len(x), device=x.device)[:, None]
            moments = moments[clip, keep[:, ::area] // area]
        pictures = moments.reshape(-1, 3 * self.tubelet, height, width)
        places: Tensor = self.stages(pictures.contiguous(memory_format=torch.channels_last))
        return places.flatten(2).transpose(1, 2).reshape(len(x), -1, self.dim)
