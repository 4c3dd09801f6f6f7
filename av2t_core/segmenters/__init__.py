"""The text-prompted segmenters: their contract, and one file for each that is known."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from av2t_core.model.config import SegmenterConfig
from av2t_core.model.published_weights import Published

Images = Mapping[str, Tensor]
"""What a segmenter reads of B pictures, by names of its own: each (B, 3, H, W)."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a segmenter finds for P prompts: mask logits (P, N, h, w), and a score for each mask (P, N).

    Above 0 a pixel belongs to the mask. `counts` (P, N): whether the segmenter takes the mask for one of those that the
    prompt asks for; that may be none of them, or several.
    """

    logits: Tensor
    scores: Tensor
    counts: Tensor

    @property
    def union(self) -> Tensor:
        """The logits (P, h, w) of all masks that count; where none does, of the one with the highest score."""
        best = self.scores == self.scores.amax(dim=-1, keepdim=True)
        used = self.counts | (best & ~self.counts.any(dim=-1, keepdim=True))
        return self.logits.masked_fill(~used[..., None, None], float("-inf")).amax(dim=1)


class TextPromptedSegmenter(Protocol):
    """An `nn.Module` that finds masks by text tokens. A picture is encoded once, and then asked with many prompts.

    `image_size`: the side in pixels of the square that its image encoder reads.
    `text_width`: of the text tokens.
    `block_widths`: the input width C_i of each block of the image encoder that an adapter may add to.
    `shared_adapter`: whether the adapters share their second layer, as they can where all blocks are of one width.

    Names are those of its own state dict: `trained` are the beginnings of those that the paper trains; `halved` are
    submodules whose matrices and convolutions may be in bfloat16, for use under autocast; `unread` are the beginnings
    of those that published weights hold and this segmenter may lack; `published_names` are prefixes, (published, own),
    of which the first that fits counts.
    """

    image_size: int
    text_width: int
    block_widths: tuple[int, ...]
    shared_adapter: bool
    trained: tuple[str, ...]
    halved: tuple[str, ...]
    unread: tuple[str, ...]
    published_names: tuple[tuple[str, str], ...]

    @property
    def image_encoder(self) -> nn.Module:
        """All that `encode` computes by: where that is frozen, its results can be kept."""

    def squares(self, images: Tensor | Sequence[Tensor], *, encoded: bool = False) -> dict[str, Tensor]:
        """Frames (3, H, W) of 0..255, of any sizes or as one batch, at the sizes that it reads.

        The values may overshoot a little; they may be rounded to bytes, to be kept. `encoded`: without what `encode`
        alone reads.
        """

    def inputs(self, squares: Images) -> dict[str, Tensor]:
        """Squares, bytes or floats, normalised as the encoders want them."""

    def encode(self, images: Images, additions: Sequence[Tensor] | None = None) -> list[Tensor]:
        """`inputs` to what the image encoder makes of them, tensors (B, ...).

        `additions`: of an adapter to each block, (B, C_i); None adds nothing.
        """

    def decode(
        self, images: Images, features: Sequence[Tensor], text: Tensor, pictures: Tensor | None = None
    ) -> Candidates:
        """Masks for P prompts `text` (P, n, text_width), by `inputs` and what `encode` made of them.

        `pictures` (P,): the number of each prompt's picture. None: each picture has one prompt, in order.
        """

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (B, h, w) of the square image to (B, H, W), in the way that the weights were trained with."""

    def stages(self) -> dict[str, tuple[Any, str]]:
        """The methods that a benchmark times, owner and name, by what their stage is called."""

    def recomputed(self) -> Iterator[nn.Module]:
        """Modules that may keep their inputs alone, and compute what a gradient needs a second time."""

    def plain_attention(self) -> AbstractContextManager[None]:
        """Within it every attention computes, stores and reads its matrix, to measure the fused one against."""


class SegmenterClass(Protocol):
    """What the class of a segmenter offers, by which a preset finds it.

    `sizes`: its frozen configs by name. `published`: where its weights are, without AV2T-SAM's; `checkpoint`: what
    the authors of AV2T-SAM call it in the names of their checkpoints. None and "" if nothing is published.
    """

    sizes: Mapping[str, SegmenterConfig]
    published: Published | None
    checkpoint: str
