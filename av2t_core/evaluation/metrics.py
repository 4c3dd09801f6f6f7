"""How well masks fit: the plain IoU of two masks, and AVSBench's IoU and F measure as its authors' code has them.

AVSBench's (Zhou et al., ECCV 2022) take logits (B, H, W) and targets (B, H, W) of 0 and 1, or of what lies between;
numpy's arrays as well as tensors of any device. Both are means: of all frames, and of the clips, each of which is one
batch.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Batch = Tensor | NDArray[np.float32] | NDArray[np.bool_]

BETA2 = 0.3  # recall counts that much beside precision
THRESHOLDS = 255  # i / 254


def mask_iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks (H, W); 1 where both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def avsbench_masks(logits: Batch) -> Tensor:
    """Logits of any shape to masks of booleans: where the sigmoid is above 0.5."""
    return torch.as_tensor(logits).float().sigmoid() > 0.5  # which is not logits > 0, by what fp32 rounds


def avsbench_iou(logits: Batch, targets: Batch) -> Tensor:
    """Of each frame (B,): I / (U + 1e-7), or where the target is empty the share of pixels that are not masked."""
    masks, targets = avsbench_masks(logits).double(), torch.as_tensor(targets).double()
    intersection = (masks * targets).sum(dim=(-2, -1))
    union = torch.maximum(masks, targets).sum(dim=(-2, -1))
    empty = targets.sum(dim=(-2, -1)) == 0
    return torch.where(empty, 1 - masks.mean(dim=(-2, -1)), intersection / (union + 1e-7))


def f_avsbench(logits: Batch, targets: Batch) -> float:
    """Of a clip's frames: the highest value of their mean F curve over thresholds of the sigmoid.

    Frames whose target is empty are left out; 0 where all are.
    """
    return _highest_f(torch.as_tensor(logits).float().sigmoid(), torch.as_tensor(targets))


def f_reference(logits: Batch, targets: Batch) -> float:
    """The same with the logits themselves held against the thresholds, as AV2T-SAM's authors compute it."""
    return _highest_f(torch.as_tensor(logits).float(), torch.as_tensor(targets))


def precision_recall(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """scores (B, H, W), masked where they reach a threshold, and targets to precision and recall (B, THRESHOLDS).

    Every pixel is counted once, for the highest threshold that it reaches, and the counts are then added up from above.
    """
    frames = len(scores)
    # Bin k holds what reaches k of the thresholds: the k-th (from 0) masks what lies in the bins above k.
    bins = torch.bucketize(scores.flatten(1), _thresholds(scores.device), right=True)  # (B, H W)
    bins += (THRESHOLDS + 1) * torch.arange(frames, device=scores.device)[:, None]

    def reaching(weights: Tensor | None) -> Tensor:
        counts = torch.bincount(bins.flatten(), weights, frames * (THRESHOLDS + 1)).double()
        return counts.view(frames, -1).flip(-1).cumsum(dim=-1).flip(-1)[:, 1:]

    hits = reaching(targets.double().flatten())
    precision = hits / reaching(None).clamp_min(1)
    recall = hits / targets.double().sum(dim=(-2, -1)).clamp_min(1e-20)[:, None]
    return precision, recall


def _highest_f(scores: Tensor, targets: Tensor) -> float:
    sounding = targets.flatten(1).any(dim=-1)
    if not sounding.any():
        return 0.0
    precision, recall = precision_recall(scores[sounding], targets[sounding])
    f = (1 + BETA2) * precision * recall / (BETA2 * precision + recall).clamp_min(1e-20)
    return f.mean(dim=0).max().item()


@cache
def _thresholds(device: torch.device) -> Tensor:
    return torch.linspace(0, 1, THRESHOLDS, device=device)
