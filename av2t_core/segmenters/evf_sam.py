"""The text-prompted segmenter: its contract, and EVF-SAM (arXiv 2406.20076) as far as it is one for either SAM.

BEiT-3 writes SAM's prompt; evf_sam2.py and evf_sam1.py hold the two.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from av2t_core.encoders.efficientnet import InvertedResidual
from av2t_core.model.adapters import adapted
from av2t_core.model.config import AV2TSamConfig
from av2t_core.segmenters.beit3 import Beit3


class TextPromptedSegmenter(Protocol):
    """Masks from an image and text tokens.

    `block_widths`: the input width C_i of each block of the image encoder that an adapter may add to.
    """

    block_widths: tuple[int, ...]

    def __call__(
        self,
        images_sam: Tensor,
        images_mm: Tensor,
        text: Tensor,
        additions: Sequence[Tensor] | None,
        features: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """images_sam (B, 3, S, S), images_mm (B, 3, M, M), text (B, n, width), additions: (B, C_i) for each block.

        Returns the mask logits of every candidate (B, candidates, h, w) and the IoU that the model expects of each
        (B, candidates). `features`: what `image_features` gave for these images, which is then not computed again.
        """

    def image_features(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, S, S) to the image encoder's results, all (B, ...); frozen, unless adapters add to it."""

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (B, h, w) of the square image to (B, H, W), the way on which the published weights were trained."""


class EvfSam(nn.Module):
    """BEiT-3 reads the image and the text tokens; its CLS output becomes the one sparse prompt of SAM.

    Autocast, where it is on, is for the two large encoders; the mask decoder always computes in fp32, for its logits
    and expected IoUs decide.
    """

    def __init__(self, config: AV2TSamConfig, sam: nn.Module) -> None:
        """`sam`: the stock package's model."""
        super().__init__()
        self.multimodal = Beit3(config.beit3)
        self.to_prompt = nn.Sequential(
            nn.Linear(config.beit3.width, config.beit3.width),
            nn.ReLU(),
            nn.Linear(config.beit3.width, config.sam.width),
        )
        self.sam: Any = sam
        self.block_widths: tuple[int, ...] = tuple(_width(block) for block in self.blocks)
        self.channel_axis = 1 if isinstance(self.blocks[0], InvertedResidual) else -1  # of what blocks read

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of SAM's image encoder, in order."""
        raise NotImplementedError

    def forward(
        self,
        images_sam: Tensor,
        images_mm: Tensor,
        text: Tensor,
        additions: Sequence[Tensor] | None,
        features: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        prompt = self.prompt(images_mm, text)
        if features is None:
            with adapted(self.blocks, additions, self.channel_axis):
                features = self.image_features(images_sam)
        with torch.autocast(images_mm.device.type, enabled=False):
            return self.decode([feature.float() for feature in features], prompt.float())

    def prompt(self, images_mm: Tensor, text: Tensor) -> Tensor:
        """The sparse prompt token (B, 1, width)."""
        cls = self.multimodal(images_mm, text)[:, :1]
        with torch.autocast(images_mm.device.type, enabled=False):  # it is trained
            return self.to_prompt(cls.float())  # type: ignore[no-any-return]

    def image_features(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, S, S) to all that SAM's image encoder gives, the finest level first."""
        raise NotImplementedError

    def decode(self, features: list[Tensor], prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Three candidate masks (B, 3, S/4, S/4) as logits, and their expected IoU (B, 3)."""
        raise NotImplementedError


def _width(block: nn.Module) -> int:
    """How many channels it reads."""
    if isinstance(block, InvertedResidual):
        return block.channels_in
    return cast(nn.LayerNorm, block.norm1).normalized_shape[0]


def best_mask(logits: Tensor, ious: Tensor) -> Tensor:
    """Of the candidates (B, candidates, h, w) the one with the highest expected IoU: (B, h, w)."""
    return logits[torch.arange(len(logits), device=logits.device), ious.argmax(dim=-1)]


def lifted(logits: Tensor, reach: float) -> Tensor:
    """Logits (B, h, w), raised where needed so that a mask above 0 holds all that is within `reach` of its peak.

    Of a thing that a model has not met it is less sure, and all the less of its edges: what counts is then how probable
    a pixel is beside the most probable one. A picture with nothing above 0 stays as it is, without a mask.
    """
    peak = logits.amax(dim=(-2, -1), keepdim=True)
    return logits + torch.where(peak > 0, (reach - peak).clamp(min=0), 0)
