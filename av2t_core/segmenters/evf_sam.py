"""EVF-SAM (arXiv 2406.20076) as far as it is one for either SAM: BEiT-3 writes SAM's prompt.

evf_sam2.py and evf_sam1.py hold the two.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from av2t_core.encoders.efficientnet import InvertedResidual
from av2t_core.model.adapters import adapted
from av2t_core.model.inputs import normalise_sam, stack_frames
from av2t_core.model.published_weights import Published
from av2t_core.segmenters import Candidates, Images
from av2t_core.segmenters.beit3 import Beit3, Beit3Config
from av2t_core.segmenters.sam import SamConfig

_NORMALISE: dict[str, Callable[[Tensor], Tensor]] = {
    "sam": normalise_sam,
    "multimodal": lambda images: images / 127.5 - 1,
}


@dataclass(frozen=True, kw_only=True)
class EvfSamConfig:
    """`antialias`: when frames are shrunk to the grid; the published checkpoints were trained without."""

    sam: SamConfig
    beit3: Beit3Config = field(default_factory=Beit3Config)
    antialias: bool = False

    @property
    def image_size(self) -> int:
        return self.sam.image_size

    @property
    def text_width(self) -> int:
        return self.beit3.width

    def complete(self, vocabulary: int = 64010) -> Self:
        """The same with all that the published state dicts hold: the word table, too."""
        return replace(self, beit3=replace(self.beit3, vocabulary=vocabulary))


def evf_published(*, what: str, part: str, repository: str, marks: tuple[str, ...]) -> Published:
    """Where EVF-SAM's own weights are, of one of the two. `marks`: of its SAM."""
    return Published(
        kind="evf-sam",
        what=what,
        part=part,
        repository=repository,
        names=(
            r"model\.safetensors",
            r"model-\d+-of-\d+\.safetensors",
            r"pytorch_model\.bin",
            r"pytorch_model-\d+-of-\d+\.bin",
        ),
        example="model.safetensors",
        marks=(*marks, "mm_extractor.beit3."),
    )


class EvfSam(nn.Module):
    """See `av2t_core.segmenters.TextPromptedSegmenter`. BEiT-3 reads the image and the text tokens; its CLS output
    becomes the one sparse prompt of SAM.

    `inputs` are `sam` (B, 3, S, S) and `multimodal` (B, 3, M, M). Autocast, where it is on, is for the two large
    encoders; the mask decoder always computes in fp32, for its logits and expected IoUs decide.
    """

    shared_adapter = False
    halved: tuple[str, ...] = ("multimodal", "sam.image_encoder")
    unread: tuple[str, ...] = ("multimodal.text_embed.",)  # the word table, which text tokens need not
    published_names: tuple[tuple[str, str], ...] = (
        ("visual_model.", "sam."),
        ("mm_extractor.beit3.", "multimodal."),
        ("text_hidden_fcs.0.", "to_prompt."),
    )

    def __init__(self, config: EvfSamConfig, sam: nn.Module) -> None:
        """`sam`: the stock package's model."""
        super().__init__()
        self.config = config
        self.image_size = config.sam.image_size
        self.text_width = config.text_width
        self.multimodal = Beit3(config.beit3)
        self.to_prompt = nn.Sequential(
            nn.Linear(config.text_width, config.text_width),
            nn.ReLU(),
            nn.Linear(config.text_width, config.sam.width),
        )
        self.sam: Any = sam
        blocks: Any = self.blocks
        self.channel_axis = 1 if isinstance(blocks[0], InvertedResidual) else -1  # of what blocks read
        self.block_widths: tuple[int, ...] = tuple(
            block.channels_in if self.channel_axis == 1 else block.norm1.normalized_shape[0] for block in blocks
        )

    @property
    def image_encoder(self) -> nn.Module:
        return cast(nn.Module, self.sam.image_encoder)

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of SAM's image encoder, in order."""
        raise NotImplementedError

    def squares(self, images: Tensor | Sequence[Tensor], *, encoded: bool = False) -> dict[str, Tensor]:
        antialias = self.config.antialias
        squares = {"multimodal": stack_frames(images, self.config.beit3.image_size, "bicubic", antialias)}
        if not encoded:
            squares["sam"] = stack_frames(images, self.image_size, "bilinear", antialias)
        return squares

    def inputs(self, squares: Images) -> dict[str, Tensor]:
        return {name: _NORMALISE[name](images) for name, images in squares.items()}

    def encode(self, images: Images, additions: Sequence[Tensor] | None = None) -> list[Tensor]:
        with adapted(self.blocks, additions, self.channel_axis):
            return self.image_features(images["sam"])

    def decode(
        self, images: Images, features: Sequence[Tensor], text: Tensor, pictures: Tensor | None = None
    ) -> Candidates:
        """Three candidates (P, 3, S/4, S/4) with the IoU that is expected of each; the best one counts."""
        multimodal = images["multimodal"]
        if pictures is not None:
            multimodal, features = multimodal[pictures], [feature[pictures] for feature in features]
        prompt = self.prompt(multimodal, text)
        with torch.autocast(text.device.type, enabled=False):
            logits, ious = self.masks([feature.float() for feature in features], prompt.float())
        best = F.one_hot(ious.argmax(dim=-1), ious.shape[-1]).bool()
        return Candidates(logits=logits, scores=ious, counts=best)

    def prompt(self, images: Tensor, text: Tensor) -> Tensor:
        """The sparse prompt token (B, 1, width)."""
        cls = self.multimodal(images, text)[:, :1]
        with torch.autocast(images.device.type, enabled=False):  # it is trained
            return self.to_prompt(cls.float())  # type: ignore[no-any-return]

    def image_features(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, S, S) to all that SAM's image encoder gives, the finest level first."""
        raise NotImplementedError

    def masks(self, features: list[Tensor], prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Three candidate masks (B, 3, S/4, S/4) as logits, and their expected IoU (B, 3)."""
        raise NotImplementedError

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]

    def stages(self) -> dict[str, tuple[Any, str]]:
        return {
            "beit3": (self.multimodal, "forward"),
            "sam_image_encoder": (self.image_encoder, "forward"),
            "mask_decoder": (self, "masks"),
        }

    def recomputed(self) -> Iterator[nn.Module]:
        """The blocks of both encoders. What an adapter adds to a block's input is added before it is kept."""
        yield from self.blocks
        yield from self.multimodal.encoder.layers

    def plain_attention(self) -> AbstractContextManager[None]:
        return sdpa_kernel(SDPBackend.MATH)
