"""Boxes x0, y0, x1, y1: how far two are the same, and which of many are of one thing.

By torch alone: torchvision, which has both, takes longer to import than all else that a detector needs.
"""

import numpy as np
import torch
from torch import Tensor


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """(N, 4) and (M, 4) to their IoU (N, M)."""
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    areas, other_areas = ((each[:, 2:] - each[:, :2]).prod(dim=-1) for each in (boxes, others))
    return both / (areas[:, None] + other_areas - both)


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
