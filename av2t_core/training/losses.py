"""The paper's learning objective (section 3.5): binary cross-entropy plus soft IoU."""

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


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """logits and target (B, h, w): the mean over pixels of the cross-entropy plus the mean over frames of 1 - IoU."""
    bce = F.binary_cross_entropy_with_logits(logits, target)
    return bce + (1 - soft_iou(logits, target)).mean()
