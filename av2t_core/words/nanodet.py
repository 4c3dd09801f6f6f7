"""NanoDet-g (Rangi Lyu, Apache-2.0), what sees things by COCO's 80 names in the preset `small`.

A network of one stage without anchors, after generalized focal loss (Li et al., arXiv 2006.04388): every place names
what it lies in, and says how far away the sides of its box are. Its batch norms are folded into the convolutions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.words.boxes import distinct, overlaps
from av2t_core.words.things import names

# What an image is looked at as: the longer side in pixels, and whether mirrored. It was trained at 416. A single size
# misses things by accident, two around it do not.
_VIEWS = ((384, True), (544, False))
# It was trained on images in OpenCV's order, blue first, in the middle of a black canvas.
_MEAN, _STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
_STRIDES = (8, 16, 32)
_WIDTH = 128
_BINS = 11  # of the distance to a side, in strides: 0, 1, …, 10
_FAINT = 0.05  # a box that may still count as a view's voice for one of another view
_OVERLAP = 0.6  # IoU from which on two boxes of one view are the same thing
_AGREEMENT = 0.5  # and two boxes of different views


@dataclass(frozen=True, eq=False)
class Boxes:
    """What is seen in one image, the likeliest first."""

    boxes: Tensor  # (N, 4) x0, y0, x1, y1 in pixels of the image
    scores: Tensor  # (N, 80) of each box the probability of every name


class Detector(nn.Module):
    """Finds things by name in images of any sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.names = names("coco")
        self.network = NanoDet(len(self.names))

    @torch.inference_mode()
    def detect(self, images: Sequence[Tensor], least: float = 0.15) -> list[Boxes]:
        """Images (3, H, W) of 0..255; boxes with a name of at least this probability, one for each thing.

        An image is looked at in several views. A box's probabilities are their means over the views, so that what only
        one of them sees counts little. Images of one size are looked at together.
        """
        found: dict[int, Boxes] = {}
        for size in {tuple(image.shape) for image in images}:
            indices = [index for index, image in enumerate(images) if tuple(image.shape) == size]
            batch = torch.stack([images[index] for index in indices]).float()
            views = [self._view(batch, *view) for view in _VIEWS]
            for place, index in enumerate(indices):
                found[index] = _agreed([_distinct(boxes[place], scores[place]) for boxes, scores in views], least)
        return [found[index] for index in range(len(images))]

    def _view(self, images: Tensor, longer: int, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Of images (B, 3, H, W) the boxes (B, places, 4) and the names' probabilities (B, places, 80)."""
        height, width = images.shape[-2:]
        scale = longer / max(height, width)
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        small = F.interpolate(images, (h, w), mode="bilinear", align_corners=False, antialias=True)
        small = small.flip((1, 3) if mirrored else (1,))
        extra_h, extra_w = -h % _STRIDES[-1], -w % _STRIDES[-1]
        left, top = extra_w // 2, extra_h // 2
        canvas = F.pad(small, (left, extra_w - left, top, extra_h - top))
        mean, std = (canvas.new_tensor(each)[:, None, None] for each in (_MEAN, _STD))
        # On a CPU convolutions are faster so than in torch's usual order of memory.
        canvas = ((canvas - mean) / std).contiguous(memory_format=torch.channels_last)
        logits, bins = self.network(canvas)
        boxes = _boxes(bins, h + extra_h, w + extra_w) - bins.new_tensor([left, top, left, top])
        boxes = boxes * bins.new_tensor([width / w, height / h]).repeat(2)
        if mirrored:
            boxes = torch.stack((width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]), dim=-1)
        return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height]).repeat(2)), logits.sigmoid()


def _boxes(bins: Tensor, height: int, width: int) -> Tensor:
    """What the places (B, places, 4, 11) of a canvas say of the sides of their boxes, in its pixels: (B, places, 4)."""
    distances = bins.softmax(dim=-1) @ torch.arange(_BINS, dtype=bins.dtype, device=bins.device)
    places = list(_places(height, width))
    middles = torch.cat([each for each, _ in places]).to(bins)
    strides = torch.cat([torch.full((len(each), 1), float(stride)) for each, stride in places]).to(bins)
    distances = distances * strides
    return torch.cat((middles - distances[..., :2], middles + distances[..., 2:]), dim=-1)


def _places(height: int, width: int) -> Iterator[tuple[Tensor, int]]:
    """Of each stride the middles (places, 2) of its places, x and y in pixels."""
    for stride in _STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        yield (torch.stack((x, y), dim=-1).flatten(0, 1) + 0.5) * stride, stride


def _distinct(boxes: Tensor, scores: Tensor, least: float = _FAINT) -> Boxes:
    """One box for each thing, whatever its names: non-maximum suppression."""
    sure = scores.amax(dim=-1)
    kept = ((sure >= least) & (boxes[:, 2:] > boxes[:, :2]).all(dim=-1)).nonzero()[:, 0]
    kept = kept[distinct(boxes[kept], sure[kept], _OVERLAP)]
    return Boxes(boxes[kept], scores[kept])


def _agreed(views: Sequence[Boxes], least: float) -> Boxes:
    """What the views say together: of each box the mean of its probabilities, and its sides weighted by them."""
    together = _distinct(torch.cat([view.boxes for view in views]), torch.cat([view.scores for view in views]))
    scores, sides = torch.zeros_like(together.scores), torch.zeros_like(together.boxes)
    weights = together.boxes.new_zeros(len(together.boxes), 1)
    for view in views:
        if len(view.boxes):
            overlap, nearest = overlaps(together.boxes, view.boxes).max(dim=-1)
            said = view.scores[nearest] * (overlap >= _AGREEMENT)[:, None]
            weight = said.amax(dim=-1, keepdim=True)
            scores, sides, weights = scores + said, sides + weight * view.boxes[nearest], weights + weight
    return _distinct(sides / weights, scores / len(views), least)


class _Conv(nn.Sequential):
    """A convolution that keeps the size at stride 1, with a leaky ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(channels_in, channels, 3, stride, padding=1), nn.LeakyReLU(0.1, inplace=True))


class _HalfBlock(nn.Module):
    """Two convolutions of half the channels, one on the other, side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Conv(channels, channels // 2)
        self.second = _Conv(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return torch.cat((self.second(first), first), dim=1)


class _Stage(nn.Module):
    """A cross stage partial block (Wang et al., arXiv 1911.11929): beside x what the blocks make of it."""

    def __init__(self, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.enter = _Conv(channels, channels, stride)
        self.blocks = nn.Sequential(*(_HalfBlock(channels) for _ in range(blocks)))
        self.leave = _Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return torch.cat((self.leave(self.blocks(x)), x), dim=1)


class NanoDet(nn.Module):
    """The network: trunk, path aggregation (Liu et al., PANet) without weights of its own, one head for each stride."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.first = _Conv(3, 32, 2)
        self.stages = nn.ModuleList(
            (_Stage(32, 1, 1), _Stage(64, 2, 2), _Stage(128, 2, 2), _Stage(256, 3, 2)),
        )
        self.laterals = nn.ModuleList(nn.Conv2d(channels, _WIDTH, 1) for channels in (128, 256, 512))
        self.heads = nn.ModuleList(
            nn.Sequential(_Conv(_WIDTH, _WIDTH), nn.Conv2d(_WIDTH, classes + 4 * _BINS, 1)) for _ in _STRIDES
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W), sides multiples of 32, to what every place says.

        Logits of the names (B, places, classes) and of the bins of the four distances (B, places, 4, 11), the places
        row by row, those of the finest stride first.
        """
        x = F.max_pool2d(self.first(images), 3, 2, padding=1)
        levels = [x := stage(x) for stage in self.stages][1:]
        levels = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for index in (1, 0):
            levels[index] = levels[index] + _resized(levels[index + 1], 2)
        for index in (1, 2):
            levels[index] = levels[index] + _resized(levels[index - 1], 0.5)
        outputs = [head(level).flatten(2).mT for head, level in zip(self.heads, levels, strict=True)]
        both = torch.cat(outputs, dim=1)
        return both[..., : self.classes], both[..., self.classes :].reshape(*both.shape[:2], 4, _BINS)


def _resized(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
