"""Boxes x0, y0, x1, y1: how far two are the same, and which of many are of one thing.

By torch alone: torchvision, which has both, takes longer to import than all else that a detector needs.
"""

import numpy as np
import torch
from torch import Tensor


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """(N, 4) and (M, 4) to their IoU (N, M)."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = boxes.T[..., None], others.T
    width = torch.minimum(x1, u1) - torch.maximum(x0, u0)
    height = torch.minimum(y1, v1) - torch.maximum(y0, v0)
    both = width.clamp(min=0) * height.clamp(min=0)
    iou: Tensor = both / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - both)
    return iou


def distinct(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Of (N, 4) with scores (N,) the indices of those without a better one that overlaps by more, the best first.

    Non-maximum suppression: what is suppressed itself suppresses nothing.
    """
    order = scores.argsort(descending=True, stable=True)
    same = (overlaps(boxes[order], boxes[order]) > overlap).cpu().numpy()
    left, kept = np.ones(len(order), np.bool_), []
    for index in range(len(order)):
        if left[index]:
            kept.append(index)
            left &= ~same[index]
    return order[kept]
