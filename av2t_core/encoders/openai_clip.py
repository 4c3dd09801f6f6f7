"""CLIP as the paper uses it (arXiv 2103.00020): OpenAI's ViT-B/32, through open_clip.

The model sees by its image half alone; the text's half gives what was found its name.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from av2t_core.encoders import PublishedEncoder
from av2t_core.model.inputs import stack_frames
from av2t_core.model.published_weights import Published, Source

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

SIZE = 224
WIDTH = 512

PROMPTS = ("a photo of a {}.", "a cropped photo of a {}.", "a photo of one {}.")
"""Texts of a name, whose embeddings are averaged (section 3.1.4)."""


class ClipImageEncoder(PublishedEncoder):
    """See `av2t_core.encoders.ImageEncoder`, `.EncoderClass` and `.naming.Reader`.

    It is open_clip's `ViT-B-32-quickgelu`: `ViT-B-32` lacks the quick GELU that OpenAI trained with.
    """

    width = WIDTH
    slope = 100.0  # the bound at which its training ends (section 2.4)
    unread = re.compile(r"logit_scale$")
    published = Published(
        kind="clip",
        what="CLIP",
        part="clip-vit-b-32",
        repository="timm/vit_base_patch32_clip_224.openai",  # which open_clip itself names
        names=(r"open_clip_model\.safetensors", r"open_clip_pytorch_model\.bin"),
        example="open_clip_model.safetensors",
        marks=("visual.conv1.", "visual.transformer."),
    )

    def __init__(self) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer  # its package takes seconds

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
        self.text = TextTransformer(width=512, heads=8, layers=12, output_dim=WIDTH, act_layer=QuickGELU)
        self.eval()

    @classmethod
    def source(cls, key: str) -> Source:
        return Source(key.removeprefix("text."))

    @torch.inference_mode()
    def encode(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        return self.visual(inputs(images))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def read(self, names: Sequence[str]) -> Tensor:
        words = [name.replace("_", " ") for name in names]
        tokens = _tokenizer()([prompt.format(word) for word in words for prompt in PROMPTS])
        embeddings = F.normalize(self.text(tokens.to(self.text.text_projection.device)), dim=-1)
        return F.normalize(embeddings.reshape(len(words), len(PROMPTS), WIDTH).mean(dim=1), dim=-1)


@cache
def _tokenizer() -> "SimpleTokenizer":
    """OpenAI's byte-pair encoding, which lies in open_clip's package."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def inputs(images: Tensor | Sequence[Tensor]) -> Tensor:
    """Frames as for `stack_frames` to (B, 3, 224, 224): bicubic, by the mean and deviation of OpenAI's pictures.

    Squeezed, where CLIP itself would crop: AVSBench's frames are squeezed to the square before anybody sees them.
    """
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    frames = stack_frames(images, SIZE, "bicubic", antialias=True).clamp(0, 255)
    mean = torch.tensor(OPENAI_DATASET_MEAN, device=frames.device)[:, None, None]
    deviation = torch.tensor(OPENAI_DATASET_STD, device=frames.device)[:, None, None]
    return (frames / 255 - mean) / deviation
