"""BlazeFace of MediaPipe for faces up to five metres away (Google, Apache-2.0): whose face is in view in the preset
`small`.

After Bazarevsky et al. (arXiv 1907.05047): a network of one stage, with one anchor in each place, that gives boxes and
six points of each face. Its batch norms are folded into the convolutions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.words.boxes import distinct

SIDE = 192
"""Of the black square, in pixels, into whose middle an image is put: what the network was trained at."""

_STRIDE = 4
_MOUTH = 3  # of the six points: eyes, tip of the nose, mouth, ears
_OVERLAP = 0.3  # IoU from which on two boxes are the same face
# How much is seen around the upper part of a person's box, which a square of its width holds: a head may stick out.
_MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces in one image, the likeliest first, in its pixels."""

    boxes: Tensor  # (N, 4) x0, y0, x1, y1, from the brows to the chin
    scores: Tensor  # (N,) probabilities
    mouths: Tensor  # (N, 2) x, y


class FaceDetector(nn.Module):
    """Finds faces that look towards the camera, or half aside."""

    def __init__(self) -> None:
        super().__init__()
        self.network = BlazeFace()

    @torch.inference_mode()
    def detect(self, images: Sequence[Tensor], least: float = 0.5) -> list[Faces]:
        """Images (3, H, W) of 0..255, of any sizes; faces of at least this probability.

        A face is found from about a tenth of the longer side of its image on; `detect_of` finds smaller ones.
        """
        if not images:
            return []
        placed = [_on_canvas(image) for image in images]
        logits, boxes, points = self.network(torch.stack([canvas for canvas, _, _ in placed]))
        found = []
        for index, (_, scale, corner) in enumerate(placed):
            scores = logits[index].sigmoid()
            kept = (scores >= least).nonzero()[:, 0]
            height, width = images[index].shape[-2:]
            size = boxes.new_tensor([width, height])
            sides = ((boxes[index, kept] - corner.repeat(2)) / scale).clamp(min=0).minimum(size.repeat(2))
            kept, sides = _real(kept, sides)
            chosen = distinct(sides, scores[kept], _OVERLAP)
            mouths = (points[index, kept[chosen], _MOUTH] - corner) / scale
            found.append(Faces(sides[chosen], scores[kept[chosen]], mouths))
        return found

    def detect_of(self, image: Tensor, persons: Tensor, least: float = 0.5) -> list[Faces]:
        """Of an image (3, H, W) and the boxes of persons (N, 4) the faces in the upper part of each, in pixels of it.

        Faces too small to be found in the whole image are found here.
        """
        parts = [_upper_part(box, image.shape[-1], image.shape[-2]) for box in persons.tolist()]
        found = self.detect([image[:, top:bottom, left:right] for left, top, right, bottom in parts], least)
        moved = []
        for faces, (left, top, _, _) in zip(found, parts, strict=True):
            corner = faces.boxes.new_tensor([left, top])
            moved.append(Faces(faces.boxes + corner.repeat(2), faces.scores, faces.mouths + corner))
        return moved


def _on_canvas(image: Tensor) -> tuple[Tensor, float, Tensor]:
    """The canvas (3, 192, 192) of -1..1 with the image, how much larger it is there, and its corner x, y on it."""
    height, width = image.shape[-2:]
    scale = SIDE / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    small = F.interpolate(image[None].float(), (h, w), mode="bilinear", align_corners=False, antialias=True)[0]
    left, top = (SIDE - w) // 2, (SIDE - h) // 2
    canvas = F.pad(small / 127.5 - 1, (left, SIDE - w - left, top, SIDE - h - top), value=-1.0)
    return canvas, scale, canvas.new_tensor([left, top])


def _real(kept: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Without boxes that have no area in the image."""
    real = (boxes[:, 2:] > boxes[:, :2]).all(dim=-1)
    return kept[real], boxes[real]


def _upper_part(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """The square left, top, right, bottom with a standing or sitting person's head, as far as the image has it."""
    x0, y0, x1, y1 = box
    side = min(max(x1 - x0, (y1 - y0) / 3), y1 - y0) * (1 + 2 * _MARGIN)
    middle, top = (x0 + x1) / 2, y0 - _MARGIN * side
    left, top = (min(max(0, int(at)), most - 1) for at, most in ((middle - side / 2, width), (top, height)))
    right, bottom = int(middle + side / 2), int(y0 + (1 - _MARGIN) * side)
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


class _Pair(nn.Sequential):
    """A convolution of each channel by itself, and one of all channels in each place."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_in, 3, stride, padding=1, groups=channels_in),
            nn.Conv2d(channels_in, channels, 1),
        )


class _Block(nn.Module):
    """A residual block with a bottleneck; the first of a stage halves the size, and has nothing to add to."""

    def __init__(self, channels_in: int, bottleneck: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.narrow = _Pair(channels_in, bottleneck, stride)
        self.widen = _Pair(bottleneck, channels)
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        widened = self.widen(self.narrow(x).relu())
        return F.relu(widened + x if self.residual else widened)


class _Fusion(nn.Module):
    """What a finer level (B, fine, 2H, 2W) and the coarser one (B, coarse, H, W) say together."""

    def __init__(self, coarse: int, fine: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, channels, 1)
        self.fine = nn.Conv2d(fine, channels, 1)
        self.blocks = nn.Sequential(*(_Block(channels, channels // 2, channels) for _ in range(blocks)))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        larger = F.interpolate(self.coarse(coarse).relu(), scale_factor=2, mode="bilinear", align_corners=False)
        together: Tensor = self.blocks(self.fine(fine).relu() + larger)
        return together


class BlazeFace(nn.Module):
    """The network: trunk, a pyramid from the coarsest level (stride 32) to the finest (4), and a head there."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, 2, padding=1)
        self.stages = nn.ModuleList(
            (
                nn.Sequential(_Block(32, 8, 32), _Block(32, 8, 32), _Block(32, 16, 64, 2), *_repeated(64, 16, 2)),
                nn.Sequential(_Block(64, 32, 128, 2), *_repeated(128, 32, 2)),
                nn.Sequential(_Block(128, 48, 192, 2), *_repeated(192, 48, 2)),
                nn.Sequential(_Block(192, 96, 384, 2), *_repeated(384, 96, 3)),
            )
        )
        self.fusions = nn.ModuleList((_Fusion(384, 192, 96, 2), _Fusion(96, 128, 64, 2), _Fusion(64, 64, 48, 1)))
        # A logit, a box and six points, for each of the four places that one place of the stride 8 holds.
        said = 4 * (1 + 4 + 2 * 6)
        self.head = nn.Sequential(nn.Conv2d(48, said, 1), nn.Conv2d(said, said, 3, 2, padding=1, groups=said))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W) of -1..1, sides multiples of 32, to what every place says, row by row.

        Logits (B, places), boxes (B, places, 4) x0, y0, x1, y1 and points (B, places, 6, 2) in pixels.
        """
        # On a CPU convolutions are faster so than in torch's usual order of memory.
        x = self.first(images.contiguous(memory_format=torch.channels_last)).relu()
        levels = [x := stage(x) for stage in self.stages]
        for fusion, fine in zip(self.fusions, reversed(levels[:-1]), strict=True):
            x = fusion(x, fine)
        said = F.pixel_shuffle(self.head(x), 2)
        middles = _middles(*said.shape[-2:]).to(said)
        said = said.flatten(2).mT  # (B, places, 17)
        middle, size = said[..., 1:3] + middles, said[..., 3:5]
        points = said[..., 5:].reshape(*said.shape[:2], 6, 2) + middles[:, None]
        return said[..., 0], torch.cat((middle - size / 2, middle + size / 2), dim=-1), points


def _repeated(channels: int, bottleneck: int, count: int) -> list[_Block]:
    return [_Block(channels, bottleneck, channels) for _ in range(count)]


def _middles(rows: int, columns: int) -> Tensor:
    """Of the places the middles (rows * columns, 2), x and y in pixels."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (torch.stack((x, y), dim=-1).flatten(0, 1) + 0.5) * _STRIDE
