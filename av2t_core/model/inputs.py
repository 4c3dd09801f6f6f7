"""From frames to the model's two image inputs, as the reference makes them: squeezed to the square, not padded."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)


def stack_frames(
    images: Sequence[NDArray[np.uint8]], size: int, device: torch.device, mode: str, antialias: bool = False
) -> Tensor:
    """Frames (H, W, 3) of any sizes to one float batch (B, 3, size, size) of 0..255, resized to the square."""
    resized = []
    for image in images:
        frame = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float()
        if frame.shape[-2:] != (size, size):
            frame = F.interpolate(frame, (size, size), mode=mode, align_corners=False, antialias=antialias)
        resized.append(frame)
    return torch.cat(resized)


def sam_images(images: Sequence[NDArray[np.uint8]], size: int, device: torch.device, antialias: bool) -> Tensor:
    """SAM's input: bilinear, normalised by the mean and deviation that SAM was trained with."""
    return normalise_sam(stack_frames(images, size, device, "bilinear", antialias))


def normalise_sam(batch: Tensor) -> Tensor:
    """(B, 3, S, S) of 0..255."""
    mean = torch.tensor(SAM_MEAN, device=batch.device)[:, None, None]
    std = torch.tensor(SAM_STD, device=batch.device)[:, None, None]
    return (batch - mean) / std


def multimodal_images(images: Sequence[NDArray[np.uint8]], size: int, device: torch.device, antialias: bool) -> Tensor:
    """BEiT-3's input: bicubic, mean and deviation 0.5."""
    return stack_frames(images, size, device, "bicubic", antialias) / 127.5 - 1
