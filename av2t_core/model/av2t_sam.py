"""AV2T-SAM, the whole (paper, figure 1)."""

from torch import Tensor, nn

from av2t_core.model.adapters import Adapters
from av2t_core.model.config import AV2TSamConfig
from av2t_core.model.feature import Projector
from av2t_core.model.segmenter import EvfSam2, best_mask


class AV2TSam(nn.Module):
    """Embeddings of a frame and of its second of sound, and the frame itself, to the mask of what sounds.

    All inputs are batches of B frames; a clip's frames are simply neighbours in the batch, for nothing in the model
    looks from one frame to another.
    """

    def __init__(self, config: AV2TSamConfig) -> None:
        super().__init__()
        self.config = config
        self.projector = Projector(config)
        self.segmenter = EvfSam2(config)
        self.adapters = (
            Adapters(config.feature_width, config.adapter_width, self.segmenter.block_widths)
            if config.adapter
            else None
        )

    def forward(self, images_sam: Tensor, images_mm: Tensor, v: Tensor, a: Tensor) -> Tensor:
        """images_sam (B, 3, S, S), images_mm (B, 3, M, M), v (B, image_width), a (B, audio_width).

        Returns the logits (B, S/4, S/4) of the best candidate; above 0 means that the pixel belongs to what sounds.
        """
        return best_mask(*self.candidates(images_sam, images_mm, v, a))

    def candidates(self, images_sam: Tensor, images_mm: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """All candidates' logits (B, 3, S/4, S/4) and their expected IoU (B, 3)."""
        f = self.projector.feature(v, a)
        additions = self.adapters(f) if self.adapters is not None else None
        return self.segmenter(images_sam, images_mm, self.projector.tokens(f), additions)  # type: ignore[no-any-return]
