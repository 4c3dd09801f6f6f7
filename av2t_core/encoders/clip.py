"""CLIP's image half as the paper uses it (arXiv 2103.00020): OpenAI's ViT-B/32, through open_clip."""

import re
from collections.abc import Mapping, Sequence

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn

from av2t_core.empty import empty_weights
from av2t_core.encoders.state import Source, translate
from av2t_core.model.inputs import stack_frames

SIZE = 224
WIDTH = 512

_UNREAD = re.compile(
    r"(?:transformer|token_embedding|ln_final)\.|(?:positional_embedding|text_projection|logit_scale)$"
)


class ClipImageEncoder(nn.Module):
    """See `av2t_core.encoders.ImageEncoder`. Its weights are random; `from_checkpoint` gives the published ones.

    It is open_clip's `ViT-B-32-quickgelu` without the text: `ViT-B-32` lacks the quick GELU that OpenAI trained with.
    """

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.visual = VisionTransformer(
            image_size=SIZE,
            patch_size=32,
            width=768,
            layers=12,
            heads=12,
            mlp_ratio=4,
            output_dim=WIDTH,
            act_layer=QuickGELU,
        )
        self.eval()

    @torch.inference_mode()
    def encode(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        return self.visual(inputs(images))  # type: ignore[no-any-return]


def inputs(images: Tensor | Sequence[Tensor]) -> Tensor:
    """Frames as for `stack_frames` to (B, 3, 224, 224): bicubic, by the mean and deviation of OpenAI's pictures.

    Squeezed, where CLIP itself would crop: AVSBench's frames are squeezed to the square before anybody sees them.
    """
    frames = stack_frames(images, SIZE, "bicubic", antialias=True).clamp(0, 255)
    mean = torch.tensor(OPENAI_DATASET_MEAN, device=frames.device)[:, None, None]
    deviation = torch.tensor(OPENAI_DATASET_STD, device=frames.device)[:, None, None]
    return (frames / 255 - mean) / deviation


def from_checkpoint(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's state dict of `ViT-B-32-quickgelu` to that of `ClipImageEncoder`; the text's half is left out.

    WeightsError names every key that is missing, unknown or of another shape.
    """
    with empty_weights():
        own = ClipImageEncoder().state_dict()
    return translate(state, own, Source, _UNREAD)
