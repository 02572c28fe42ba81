"""From stored pixels to what an encoder reads."""

from __future__ import annotations

import torch
from torch import Tensor

# Mean and standard deviation of ImageNet's pixels in [0, 1], as V-JEPA 2 normalises video.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def denormalise(video: Tensor) -> Tensor:
    """What `normalise` was given: [B, 3, T, H, W] -> uint8 [B, T, H, W, 3]."""
    std, mean = (torch.tensor(row, device=video.device) for row in (IMAGENET_STD, IMAGENET_MEAN))
    pixels = video.float().permute(0, 2, 3, 4, 1) * std + mean
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def normalise(video: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [B, T, H, W, 3] -> `dtype` [B, 3, T, H, W], on the video's device.

    The result is a permuted view of channels-last memory: nothing is moved.
    """
    std = torch.tensor(IMAGENET_STD, device=video.device)
    shift = -torch.tensor(IMAGENET_MEAN, device=video.device) / std
    # float32 inside: bf16 would round 0..255 before it is scaled.
    pixels = torch.addcmul(shift, video.to(torch.float32), 1 / (255 * std))
    return pixels.to(dtype).permute(0, 4, 1, 2, 3)
