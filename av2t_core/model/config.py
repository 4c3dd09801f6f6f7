"""The frozen description of one AV2T-SAM: every size, from the tests' micro model to the paper's, is a value of it."""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

Feature = Literal["mul", "clap", "clip"]


@dataclass(frozen=True, kw_only=True)
class Beit3Config:
    """BEiT-3, the multimodal encoder of EVF-SAM (arXiv 2406.20076, section 3)."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 1024
    layers: int = 24
    heads: int = 16
    ffn_width: int = 4096
    max_text: int = 1024  # rows of the text position table
    vocabulary: int = 0  # rows of the word table, which AV2T-SAM never reads; 0 leaves it out


@dataclass(frozen=True, kw_only=True)
class Sam2Config:
    """SAM2 (arXiv 2408.00714) as the stock `sam2` package builds it; the defaults are Hiera-L's.

    `trunk`: the image encoder's; what follows up to `window_pos_embed` is of Hiera alone.
    """

    image_size: int = 1024
    trunk: Literal["hiera", "efficientnet-lite0"] = "hiera"
    embed_dim: int = 144
    num_heads: int = 2
    stages: tuple[int, ...] = (2, 6, 36, 4)
    global_att_blocks: tuple[int, ...] = (23, 33, 43)
    window_spec: tuple[int, ...] = (8, 4, 16, 8)
    window_pos_embed: int = 7  # side of the position table that is shared by all windows
    width: int = 256  # of the neck, the prompts and the mask decoder
    memory: bool = False  # the video memory, which AV2T-SAM never runs but whose weights the checkpoints hold
    memory_layers: int = 4
    memory_ffn_width: int = 2048
    memory_width: int = 64


@dataclass(frozen=True, kw_only=True)
class Sam1Config:
    """SAM (arXiv 2304.02643) as the stock `segment-anything` package builds it; the defaults are ViT-H's."""

    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 1280
    num_heads: int = 16
    blocks: int = 32
    global_att_blocks: tuple[int, ...] = (7, 15, 23, 31)
    window_size: int = 14
    width: int = 256  # of the neck, the prompts and the mask decoder


@dataclass(frozen=True, kw_only=True)
class AV2TSamConfig:
    """`audio_width` and `image_width` are those of the encoders' embeddings a and v.

    `mask_reach`: see `segmenter.lifted`; None, the published rule, is a mask of the logits above 0 and nothing else.
    """

    feature: Feature = "mul"
    adapter: bool = True
    audio_width: int = 1024
    image_width: int = 512
    feature_width: int = 512
    text_tokens: int = 3
    adapter_width: int = 512
    mask_reach: float | None = None
    antialias: bool = False  # when frames are shrunk to the grid; the published checkpoints were trained without
    beit3: Beit3Config = field(default_factory=Beit3Config)
    sam: Sam2Config | Sam1Config = field(default_factory=Sam2Config)

    def complete(self, vocabulary: int = 64010) -> Self:
        """The same with all that the authors' state dicts hold: the word table and SAM2's video memory, too."""
        sam = replace(self.sam, memory=True) if isinstance(self.sam, Sam2Config) else self.sam
        return replace(self, beit3=replace(self.beit3, vocabulary=vocabulary), sam=sam)
