"""MobileSAM (arXiv 2306.14289): SAM with a small image encoder, whose prompt tokens are the text tokens.

Points, boxes and earlier masks prompt it, too. A frame keeps its aspect ratio, and of SAM's square only what it covers
is computed, with some of the padding. A wide frame takes two fifths less time so, and its masks have a mean IoU of .973
with those of the whole square.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from av2t_core.model.adapters import adapted
from av2t_core.model.inputs import normalise_sam
from av2t_core.model.published_weights import Published
from av2t_core.segmenters import Candidates, Images
from av2t_core.segmenters.sam import PATCH_SIZE, SamConfig
from av2t_core.segmenters.sam_decoder import Sam
from av2t_core.segmenters.tiny_vit import TinyVit, TinyVitConfig

NO_POINT = -1
"""The label of a point that fills up a prompt."""

# Patches of padding that the image encoder sees beside a frame. Without, its last rows are other than with all of it,
# and a mask's mean IoU with SAM's is .96 instead of .973; more of it changes no more.
_MARGIN = 4


@dataclass(frozen=True, kw_only=True)
class MobileSamConfig(SamConfig):
    encoder: TinyVitConfig = field(default_factory=TinyVitConfig)

    @property
    def text_width(self) -> int:
        return self.width

    def build(self) -> "MobileSam":
        return MobileSam(self)


class MobileSam(nn.Module):
    """See `av2t_core.segmenters.TextPromptedSegmenter`.

    `squares` have the frame in the middle, so that its mirror image is there, too; `grid` (B, 2, 1) is how many rows
    and columns of patches it covers. `inputs` and features have it at the upper left. Logits cover the frame: they are
    (P, 3, 4 rows, 4 columns), or of the whole square's size where the pictures of a batch differ in shape.
    """

    shared_adapter = False
    trained: tuple[str, ...] = ("sam.mask_decoder.", "sam.prompt_encoder.no_mask_embed.")
    halved: tuple[str, ...] = ("sam.image_encoder",)
    unread: tuple[str, ...] = ()
    published_names: tuple[tuple[str, str], ...] = ()
    sizes: Mapping[str, MobileSamConfig] = {"small": MobileSamConfig()}
    published: Published | None = None
    checkpoint = ""

    def __init__(self, config: MobileSamConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size, self.text_width = config.image_size, config.text_width
        self.sam = Sam(TinyVit(config.encoder, config.width), config)
        self.block_widths: tuple[int, ...] = tuple(block.width for block in self._blocks)  # type: ignore[misc]

    @property
    def image_encoder(self) -> TinyVit:
        assert isinstance(self.sam.image_encoder, TinyVit)
        return self.sam.image_encoder

    @property
    def _blocks(self) -> nn.ModuleList:
        """Those at S/16. All before them stays the same, whatever adapters add."""
        return nn.ModuleList(block for stage in self.image_encoder.stages[1:] for block in stage)  # type: ignore[attr-defined]

    def squares(self, images: Tensor | Sequence[Tensor], *, encoded: bool = False) -> dict[str, Tensor]:
        if encoded:
            return {}
        pictures, grids = [], []
        for image in images:
            grid = self._grid(image.shape[-2:])
            height, width = (PATCH_SIZE * side for side in grid)
            resized = F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)[0]
            rows, columns = self.image_size - height, self.image_size - width
            pictures.append(F.pad(resized, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)))
            grids.append(torch.tensor(grid, device=image.device, dtype=torch.float32)[:, None])
        return {"picture": torch.stack(pictures), "grid": torch.stack(grids)}

    def inputs(self, squares: Images) -> dict[str, Tensor]:
        grids = _sides(squares["grid"])
        # No more of the square than the image encoder reads.
        most = [min(self.image_size, PATCH_SIZE * (max(sides) + _MARGIN)) for sides in zip(*grids, strict=True)]
        pictures = []
        for square, grid in zip(squares["picture"], grids, strict=True):
            height, width = (PATCH_SIZE * side for side in grid)
            top, left = (self.image_size - height) // 2, (self.image_size - width) // 2
            picture = normalise_sam(square[None, :, top : top + height, left : left + width])[0]
            pictures.append(F.pad(picture, (0, most[1] - width, 0, most[0] - height)))
        return {"picture": torch.stack(pictures), "grid": squares["grid"].float()}

    def encode(self, images: Images, additions: Sequence[Tensor] | None = None) -> list[Tensor]:
        """(B, width, S/16, S/16), zeros where there is no frame, and `grid` (B, 2, 1)."""
        pictures, side = images["picture"], self.image_size // PATCH_SIZE
        features: list[Tensor] = [torch.empty(0)] * len(pictures)
        grids = _sides(images["grid"])
        for which in _together(grids, pictures.device):
            rows, columns = grids[which[0]]
            some = pictures[which, :, : PATCH_SIZE * (rows + _MARGIN), : PATCH_SIZE * (columns + _MARGIN)]
            added = None if additions is None else [addition[which] for addition in additions]
            with adapted(self._blocks, added):
                encoded = self.image_encoder(some.contiguous(memory_format=torch.channels_last))[..., :rows, :columns]
            for index, feature in zip(which, F.pad(encoded, (0, side - columns, 0, side - rows)), strict=True):
                features[index] = feature
        return [torch.stack(features), images["grid"]]

    def decode(
        self, images: Images, features: Sequence[Tensor], text: Tensor, pictures: Tensor | None = None
    ) -> Candidates:
        """Three candidates with the IoU that is expected of each; the best one counts."""
        return self.refine(features, text, None, pictures)

    def refine(
        self, features: Sequence[Tensor], text: Tensor, masks: Tensor | None, pictures: Tensor | None = None
    ) -> Candidates:
        """As `decode`, with a mask that was found before for each prompt, logits (P, h, w), as SAM's own refinement."""
        embeddings, grids = features[0].float(), _sides(features[1])
        pictures = torch.arange(len(text), device=text.device) if pictures is None else pictures
        logits: list[Tensor] = [torch.empty(0)] * len(text)
        ious: list[Tensor] = [torch.empty(0)] * len(text)
        with torch.autocast(text.device.type, enabled=False):  # what decides is in fp32
            for picture in dict.fromkeys(pictures.tolist()):
                which = (pictures == picture).nonzero()[:, 0]
                rows, columns = grids[picture]
                dense = None
                if masks is not None:
                    given = F.interpolate(masks[which, None].float(), (4 * rows, 4 * columns), mode="bilinear")
                    dense = self.sam.prompt_encoder.mask_downscaling(given)
                image = embeddings[picture, :, :rows, :columns]
                for index, *found in zip(
                    which.tolist(), *self.sam.decode(image, text[which].float(), dense), strict=True
                ):
                    logits[index], ious[index] = found
        if len({each.shape for each in logits}) > 1:
            side = 4 * self.image_size // PATCH_SIZE
            logits = [F.interpolate(each[None], (side, side), mode="bilinear")[0] for each in logits]
        scores = torch.stack(ious)
        best = F.one_hot(scores.argmax(dim=-1), scores.shape[-1]).bool()
        return Candidates(logits=torch.stack(logits), scores=scores, counts=best)

    def prompt_tokens(
        self,
        size: tuple[int, int],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
    ) -> Tensor:
        """Prompts on a frame of `size` (H, W) to tokens (P, n, text_width), as SAM's predictor makes them.

        `boxes` (P, 4): left, top, right and bottom in pixels. `points` (P, k, 2): x and y; `point_labels` (P, k): 1 is
        in the thing, 0 is not, NO_POINT fills up. One of both at least; with both, a prompt has a box and its points.
        """
        height, width = size
        rows, columns = self._grid(size)
        scale = torch.tensor([PATCH_SIZE * columns / width, PATCH_SIZE * rows / height])
        placed = None if points is None else points.float() * scale.to(points.device)
        framed = None if boxes is None else boxes.float() * scale.repeat(2).to(boxes.device)
        return self.sam.prompt_encoder(framed, placed, point_labels)  # type: ignore[no-any-return]

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """By way of the size that its input has, as SAM does."""
        height, width = (PATCH_SIZE // 4 * side for side in logits.shape[-2:])
        finer = F.interpolate(logits[:, None], (height, width), mode="bilinear", align_corners=False)
        return F.interpolate(finer, size, mode="bilinear", align_corners=False)[:, 0]

    def stages(self) -> dict[str, tuple[Any, str]]:
        return {"sam_image_encoder": (self.image_encoder, "forward"), "mask_decoder": (self, "refine")}

    def recomputed(self) -> Iterator[nn.Module]:
        """The blocks. What an adapter adds to a block's input is added before it is kept."""
        yield from self._blocks

    def plain_attention(self) -> AbstractContextManager[None]:
        return sdpa_kernel(SDPBackend.MATH)

    def _grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of patches that a frame of `size` (H, W) covers, the longer side all of the square."""
        longest = max(size)
        side = self.image_size // PATCH_SIZE
        height, width = (max(1, round(side * each / longest)) for each in size)
        return height, width


def _together(grids: Sequence[tuple[int, int]], device: torch.device) -> list[list[int]]:
    """The numbers of the pictures that are encoded at once: those of one size. On a CPU it is each by itself, for the
    caches hold little more than one."""
    if device.type == "cpu":
        return [[index] for index in range(len(grids))]
    return [[index for index, grid in enumerate(grids) if grid == each] for each in dict.fromkeys(grids)]


def _sides(grid: Tensor) -> list[tuple[int, int]]:
    """`grid` (B, 2, 1) on the host."""
    return [(int(rows), int(columns)) for rows, columns in grid.flatten(1).tolist()]
