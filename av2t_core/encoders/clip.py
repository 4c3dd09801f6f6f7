"""CLIP as the paper uses it (arXiv 2103.00020): OpenAI's ViT-B/32, through open_clip."""

from collections.abc import Mapping, Sequence

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

# `ViT-B-32` with OpenAI's weights only warns and is wrong: they were trained with the quick GELU.
ARCHITECTURE = "ViT-B-32-quickgelu"


class ClipImageEncoder(nn.Module):
    """See `av2t_core.encoders.ImageEncoder`. Without weights it is random; nothing is ever downloaded here."""

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        model, _, self._preprocess = open_clip.create_model_and_transforms(ARCHITECTURE, pretrained=None)
        if weights is not None:
            model.load_state_dict(weights)
        self.visual = model.visual
        self.width: int = self.visual.output_dim
        self.eval()

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        device = self.visual.proj.device
        batch = torch.stack([self._preprocess(Image.fromarray(image)) for image in images])
        return self.visual(batch.to(device))  # type: ignore[no-any-return]
