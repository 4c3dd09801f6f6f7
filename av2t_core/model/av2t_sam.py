"""AV2T-SAM, the whole (paper, figure 1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from av2t_core.model.adapters import Adapters
from av2t_core.model.config import AV2TSamConfig, Sam1Config
from av2t_core.model.feature import Projector
from av2t_core.segmenters.evf_sam import best_mask
from av2t_core.segmenters.evf_sam2 import EvfSam2

if TYPE_CHECKING:
    from av2t_core.segmenters.evf_sam1 import EvfSam1


class AV2TSam(nn.Module):
    """Embeddings of a frame and of its second of sound, and the frame itself, to the mask of what sounds.

    All inputs are batches of B frames; a clip's frames are simply neighbours in the batch, for nothing in the model
    looks from one frame to another.
    """

    def __init__(self, config: AV2TSamConfig) -> None:
        super().__init__()
        self.config = config
        with_sam1 = isinstance(config.sam, Sam1Config)
        self.projector = Projector(config)
        self.segmenter: EvfSam1 | EvfSam2 = _with_sam1(config) if with_sam1 else EvfSam2(config)
        self.adapters: Adapters | None = None
        if config.adapter:
            widths = self.segmenter.block_widths
            self.adapters = Adapters(config.feature_width, config.adapter_width, widths, shared_output=with_sam1)

    def forward(
        self, images_sam: Tensor, images_mm: Tensor, v: Tensor, a: Tensor, features: Sequence[Tensor] | None = None
    ) -> Tensor:
        """images_sam (B, 3, S, S), images_mm (B, 3, M, M), v (B, image_width), a (B, audio_width).

        Returns the logits (B, S/4, S/4) of the best candidate; above 0 means that the pixel belongs to what sounds.
        `features`: see `candidates`.
        """
        return best_mask(*self.candidates(images_sam, images_mm, v, a, features))

    def candidates(
        self, images_sam: Tensor, images_mm: Tensor, v: Tensor, a: Tensor, features: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """All candidates' logits (B, 3, S/4, S/4) and their expected IoU (B, 3).

        `features`: `segmenter.image_features(images_sam)`, if it was computed before; only for a model without
        adapters, for with them it depends on f. `images_sam` is then not read.
        """
        assert features is None or self.adapters is None
        # What is trained is small and decides: always in fp32, also where autocast is on for the large encoders.
        with torch.autocast(images_mm.device.type, enabled=False):
            f = self.projector.feature(v.float(), a.float())
            text = self.projector.tokens(f)
            additions = self.adapters(f) if self.adapters is not None else None
        return self.segmenter(images_sam, images_mm, text, additions, features)  # type: ignore[no-any-return]


def _with_sam1(config: AV2TSamConfig) -> "EvfSam1":
    """Its package brings torchvision, and that half of what a process needs to start."""
    from av2t_core.segmenters.evf_sam1 import EvfSam1

    return EvfSam1(config)
