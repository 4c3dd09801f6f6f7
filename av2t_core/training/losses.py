"""The paper's learning objective (section 3.5): binary cross-entropy plus soft IoU."""

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_iou(logits: Tensor, target: Tensor) -> Tensor:
    """logits and target (..., h, w) to the soft intersection over union (...,), with p = sigmoid(logits).

    An empty target gives 0, whatever is predicted, and so no gradient.
    """
    p = logits.sigmoid()
    intersection = (p * target).sum(dim=(-2, -1))
    union = (p + target).sum(dim=(-2, -1)) - intersection
    return intersection / union


def frame_losses(logits: Tensor, target: Tensor) -> Tensor:
    """logits and target (B, h, w) to (B, 2): each frame's mean cross-entropy over its pixels, and 1 - its soft IoU.

    The loss of a batch is the mean over its frames of the sum of both.
    """
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(-2, -1))
    return torch.stack([bce, 1 - soft_iou(logits, target)], dim=-1)
