"""From frames to what encoders read, as the reference makes it: squeezed to the square, not padded."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)


def to_device(images: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor | list[Tensor]:
    """Frames (H, W, 3) to uint8 tensors (3, H, W): on a CPU the frames themselves, elsewhere copies.

    Those of one size travel together, as (B, 3, H, W). They become floats only when they are made smaller, for at
    native size a batch of them may be large.
    """
    if device.type != "cpu" and len({image.shape for image in images}) == 1:
        return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    # torch takes no array that may not be written to, as a decoded picture may be; such a one is copied.
    return [torch.from_numpy(np.require(image, requirements="W")).to(device).permute(2, 0, 1) for image in images]


def stack_frames(images: Tensor | Sequence[Tensor], size: int, mode: str, antialias: bool = False) -> Tensor:
    """Frames (3, H, W), of any sizes or already one batch, to (B, 3, size, size), resized to the square."""
    if not isinstance(images, Tensor):
        return torch.cat([stack_frames(image[None], size, mode, antialias) for image in images])
    if images.shape[-2:] == (size, size):
        return images.float()
    return F.interpolate(images.float(), (size, size), mode=mode, align_corners=False, antialias=antialias)


def normalise_sam(batch: Tensor) -> Tensor:
    """(B, 3, S, S) of 0..255 by the mean and deviation that SAM was trained with."""
    mean = torch.tensor(SAM_MEAN, device=batch.device)[:, None, None]
    std = torch.tensor(SAM_STD, device=batch.device)[:, None, None]
    return (batch - mean) / std
