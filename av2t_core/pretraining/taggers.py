"""The models of the recipe of `tiny`: heads and losses for labels and masks."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders.efficientnet import EfficientNetLite
from av2t_core.encoders.tiny import TinyEncodersConfig
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.segmenters import Candidates, Images
from av2t_core.segmenters.evf_sam2 import EvfSam2Config, build_sam2
from av2t_core.training.paper import soft_iou


class DenseHead(nn.Module):
    """Names every pixel by the levels of SAM2's neck."""

    def __init__(self, config: EvfSam2Config, encoders: TinyEncodersConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.sam.width, len(encoders.labels) + 1, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """The levels (B, width, s, s), the finest first, to (B, labels + 1, S/4, S/4); 0 is the background."""
        summed = levels[0]
        for level in levels[1:]:
            summed = summed + F.interpolate(level, summed.shape[-2:], mode="bilinear", align_corners=False)
        return self.conv(F.gelu(summed))  # type: ignore[no-any-return]


class DenseTagger(nn.Module):
    """SAM2's image encoder alone, under that head."""

    def __init__(self, config: EvfSam2Config, encoders: TinyEncodersConfig) -> None:
        super().__init__()
        self.sam = build_sam2(config.sam)
        self.head = DenseHead(config, encoders)

    @property
    def trunk(self) -> EfficientNetLite:
        return self.sam.image_encoder.trunk  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, labels + 1, S/4, S/4)."""
        return self.head(self.sam.image_encoder(images)["backbone_fpn"])  # type: ignore[no-any-return]


class Tagger(nn.Module):
    """AV2T-SAM, with that head beside its decoder."""

    def __init__(self, model: AV2TSam, head: DenseHead) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, images: Images, v: Tensor, a: Tensor) -> tuple[Candidates, Tensor]:
        """As AV2TSam.candidates; and the classes of the pixels (B, labels + 1, S/4, S/4) as adapters let them be.

        What the image encoder reads are as many fewer images as its trunk repeats them.
        """
        text, additions = self.model.prompt(v, a)
        levels = self.model.segmenter.encode(images, additions)
        return self.model.segmenter.decode(images, levels, text), self.head(levels)


def candidates_loss(logits: Tensor, ious: Tensor, target: Tensor) -> Tensor:
    """The paper's loss for every candidate (B, 3, h, w), and the expected IoU (B, 3) against the IoU there is.

    The cross-entropy counts three times, and the IoU only where something sounds: an empty target has none. A right
    "nothing" counts as an IoU of 1 for the expectation, so that it is a score. Pixels of what sounds weigh as much more
    as makes 0 the threshold that is best for the IoU, where the plain cross-entropy would make it best for the share of
    right pixels: of a thing that may be what is heard, a missing mask costs more than a false one.
    """
    target = target[:, None].expand_as(logits)
    some = target.amax(dim=(-2, -1)) > 0
    bce = F.binary_cross_entropy_with_logits(logits, target, pos_weight=torch.tensor(4.0))
    iou = soft_iou(logits, target)
    shape = ((1 - iou) * some).sum() / some.sum().clamp(min=1)
    with torch.no_grad():
        hard, truth = logits > 0, target > 0.5
        union = (hard | truth).sum(dim=(-2, -1))
        real = torch.where(union > 0, (hard & truth).sum(dim=(-2, -1)) / union.clamp(min=1), 1.0)
    return 3 * bce + shape + 0.5 * F.mse_loss(ious, real)


def tagging_loss(log_odds: Tensor, present: Sequence[tuple[int, ...]]) -> Tensor:
    """log_odds (B, labels + 1); the last column is "nothing"."""
    target = torch.zeros_like(log_odds, dtype=torch.float32)
    for row, indices in enumerate(present):
        target[row, list(indices) or [-1]] = 1
    return F.binary_cross_entropy_with_logits(log_odds.float(), target) * log_odds.shape[1] / 4


def pixel_loss(logits: Tensor, owners: NDArray[np.uint8]) -> Tensor:
    """logits (B, labels + 1, S/4, S/4) against the owner of the middle of each cell, owners (B, S, S)."""
    target = torch.from_numpy(owners[:, 2::4, 2::4].astype(np.int64))
    # The background is most of a frame; as many pixels again of the things keep it from winning by default.
    weight = torch.ones(logits.shape[1])
    weight[0] = 0.3
    return F.cross_entropy(logits.float(), target, weight)
