"""The frozen description of one AV2T-SAM: every size, from the tests' micro model to the paper's, is a value of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:  # it brings torch, and who asks for a preset's name needs none
    from av2t_core.segmenters import TextPromptedSegmenter

Feature = Literal["mul", "clap", "clip"]


class SegmenterConfig(Protocol):
    """A frozen dataclass that describes one size of a segmenter."""

    @property
    def image_size(self) -> int:
        """The side in pixels of the square that its image encoder reads."""

    @property
    def text_width(self) -> int:
        """Of the text tokens."""

    def build(self) -> "TextPromptedSegmenter":
        """The segmenter, its weights drawn."""


@dataclass(frozen=True, kw_only=True)
class AV2TSamConfig:
    """`audio_width` and `image_width` are those of the encoders' embeddings a and v.

    `mask_reach`: see `av2t_sam.lifted`; None, the published rule, is a mask of the logits above 0 and nothing else.
    """

    segmenter: SegmenterConfig
    feature: Feature = "mul"
    adapter: bool = True
    audio_width: int = 1024
    image_width: int = 512
    feature_width: int = 512
    text_tokens: int = 3
    adapter_width: int = 512
    mask_reach: float | None = None
