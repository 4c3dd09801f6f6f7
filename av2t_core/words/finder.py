"""Heard times seen: which named things sound in a window, where they are, and the prompts that ask SAM for them.

Sounds have AudioSet's names, a detector's boxes COCO's, and places of the frame ImageNet's. `things` says which of them
mean the same. What is heard and not seen is off-screen, and gets no mask; whose mouth moves is not looked at.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders.imagenet import ImageNetEncoder
from av2t_core.encoders.naming import Namer
from av2t_core.encoders.yamnet import YamNetAudioEncoder
from av2t_core.segmenters.mobile_sam import MobileSam
from av2t_core.words import Found
from av2t_core.words.faces import FaceDetector
from av2t_core.words.nanodet import Boxes, Detector
from av2t_core.words.things import match, things
from av2t_core.words.things import names as class_names

LEAST_HEARD = 0.15
"""Of a thing's probability by sound, for the frame to be looked at."""
HINT = 0.5
"""How much a class of sound counts that may be another thing as well."""
KIN = 0.5
"""How much a class of pictures counts that is only taken for the thing."""
LEAST_SEEN = 0.25
"""Of a thing's probability in a box."""
LEAST_MAP = 0.3
"""Of a thing's probability at a place of the frame, where no box holds it."""
SMALLEST_FACE = 0.1
"""Of a face's height beside the frame's, for a voice to be its own: whoever is smaller may be talked about."""
AROUND = 0.5
"""How far towards its peak the map of a thing must stay, from its mean, for what is around the peak to belong to it."""
OTHERS = 0.5
"""Of several things those count that are so probable beside the first, …"""
SMALLEST = 0.15
"""… and of several of one name those that are so large beside it."""
LEAST_LIKELY = 0.2
"""A name of less than this share of the likeliest one's probability is left out."""
OVERLAP = 0.5
"""Two boxes that share more than this of the smaller one are of one thing."""


_CLASSES: tuple[Literal["audioset", "coco", "imagenet"], ...] = ("audioset", "coco", "imagenet")


@dataclass(frozen=True, eq=False)
class _Table:
    """All known things, whether they are asked for or not: by which classes, as matrices (things, classes)."""

    heard: Tensor
    hinted: Tensor
    voice: Tensor
    coco: Tensor
    imagenet: Tensor

    @classmethod
    def read(cls) -> "_Table":
        each = list(things().values())

        def matrix(columns: int, classes: Sequence[Sequence[int]], kin: Sequence[Collection[int]] = ()) -> Tensor:
            rows = torch.zeros(len(each), columns)
            for row, own, some in zip(rows, classes, kin or repeat(()), strict=False):
                row[list(own)] = 1
                row[list(some)] = KIN
            return rows

        sounds, boxes, pictures = (len(class_names(of)) for of in _CLASSES)
        return cls(
            heard=matrix(sounds, [thing.heard for thing in each]),
            hinted=matrix(sounds, [thing.hinted for thing in each]),
            voice=matrix(sounds, [sorted(thing.voice) for thing in each]),
            coco=matrix(boxes, [thing.coco for thing in each], [thing.coco_kin for thing in each]),
            imagenet=matrix(pictures, [thing.imagenet for thing in each], [thing.imagenet_kin for thing in each]),
        )


@dataclass(frozen=True, eq=False)
class _Region:
    """`seen` (things,): the probability of each in it. `points` (k, 2): x and y in the thing; None in a detector's."""

    box: Tensor  # (4,) x0, y0, x1, y1 in pixels
    seen: Tensor
    points: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Sound:
    """Of one window: of each thing (things,) the probability by sound alone, and whether that would be its voice."""

    heard: Tensor
    voiced: Tensor


class SoundingThings(nn.Module):
    """See `av2t_core.words.Finder`."""

    def __init__(self, *, hearing: YamNetAudioEncoder, sight: ImageNetEncoder, segmenter: MobileSam) -> None:
        super().__init__()
        self.detector, self.faces = Detector(), FaceDetector()
        # Not by themselves, for they belong to others.
        self._parts = hearing, sight, segmenter
        self._table = _Table.read()
        self._called = lru_cache(16)(_called)

    def silence(self, a: Tensor) -> Tensor:
        return self._parts[0].classes(a)[:, class_names("audioset").index("Silence")]

    @torch.inference_mode()
    def find(
        self, images: Sequence[Tensor], a: Tensor, beside: Tensor, names: Sequence[str], learned: Namer
    ) -> list[list[Found]]:
        called = self._called(tuple(names), learned.labels)
        sounds = self._sounds(a, beside, learned)
        found: list[list[Found]] = [[] for _ in images]
        looked_at = [i for i, sound in enumerate(sounds) if any(sound.heard[thing] >= LEAST_HEARD for thing in called)]
        if looked_at:
            seen = self.detector.detect([images[i] for i in looked_at])
            for i, each in zip(looked_at, seen, strict=True):
                boxes = Boxes(each.boxes.cpu(), each.scores.cpu())
                found[i] = self._in_frame(images[i], sounds[i], called, boxes, learned)
        return found

    def unknown(self, names: Sequence[str]) -> list[str]:
        return [name for name, meant in match(names).items() if not meant]

    def stages(self) -> dict[str, tuple[Any, str]]:
        return {
            "detector": (self.detector, "detect"),
            "class_maps": (self, "_class_maps"),
            "faces": (self.faces, "detect_of"),
        }

    def _sounds(self, a: Tensor, beside: Tensor, learned: Namer) -> list[_Sound]:
        """A sound that is faint in one second goes on if it is clear in the next or was in the last."""
        each, voiced = self._second(torch.cat([a[:, None], beside], dim=1).flatten(0, 1), learned)
        own, others = each.view(len(a), 3, -1).tensor_split([1], dim=1)  # (B, 1, things), (B, 2, things)
        heard = torch.maximum(own, (own * others).sqrt().amax(dim=1, keepdim=True))[:, 0]
        return [_Sound(*both) for both in zip(heard, voiced[::3], strict=True)]

    def _second(self, a: Tensor, learned: Namer) -> tuple[Tensor, Tensor]:
        """What `_Sound` is made of (B, things), of a second by itself.

        A hint counts as far as nothing explains it that is heard itself: where a dog barks, no cat is the animal."""
        table = self._table
        # From here on it is little, and computed on the host.
        classes = self._parts[0].classes(a).cpu()[:, None]  # (B, 1, 521)
        certain = (classes * table.heard).amax(dim=-1)
        explained = (certain[..., None] * table.hinted).amax(dim=1, keepdim=True)  # (B, 1, 521)
        hinted = HINT * ((classes - explained) * table.hinted).amax(dim=-1)
        heard = torch.cat([torch.maximum(certain, hinted), learned.heard(a).cpu()], dim=1)
        voices = (classes * table.voice).amax(dim=-1)
        voiced = F.pad(voices > (classes * table.heard * (1 - table.voice)).amax(dim=-1), (0, len(learned.labels)))
        return heard, voiced

    def _in_frame(
        self, frame: Tensor, sound: _Sound, called: Mapping[int, tuple[str, ...]], boxes: Boxes, learned: Namer
    ) -> list[Found]:
        size = (int(frame.shape[1]), int(frame.shape[2]))
        features, maps, alike = self._class_maps(frame, learned)
        regions = [
            replace(
                region, seen=torch.cat([region.seen, learned.seen(_within(features, region.box, size)[None])[0].cpu()])
            )
            for region in self._boxed(boxes, maps[: len(self._table.coco)], size)
        ]
        for thing in (sound.heard >= LEAST_HEARD).nonzero()[:, 0].tolist():
            if not any(region.seen[thing] >= LEAST_SEEN for region in regions):
                regions += _mapped(maps, alike, thing, size)
        chosen = _chosen(self._faced(frame, regions, sound), sound.heard)
        found = [self._found(region, sound.heard, called, alike, size) for region in chosen]
        asked = [each for each in found if each is not None]
        return [each for each in asked if each.likelihood >= OTHERS * asked[0].likelihood]

    def _class_maps(self, frame: Tensor, learned: Namer) -> tuple[Tensor, Tensor, Tensor]:
        """The features (width, h, w) of a frame's places, and how probable each thing is there, and how much alike:
        (things, h, w) each."""
        sight = self._parts[1]
        features = sight.features(frame[None])[0]
        logits = sight.class_maps(features[None])[0].cpu()  # (1000, h, w)
        taught = learned.seen(features.flatten(1).T).T.cpu().reshape(-1, *features.shape[1:])
        maps = torch.cat([torch.einsum("chw,tc->thw", logits.softmax(dim=0), self._table.imagenet), taught])
        return features, maps, torch.cat([self._alike(logits), taught.logit(eps=1e-6)])

    def _faced(self, frame: Tensor, regions: Sequence[_Region], sound: _Sound) -> list[_Region]:
        """The regions, and nobody seen in those without a face whose voice it would be: a narrator is not in view."""
        likeliest = [int((sound.heard * region.seen).argmax()) for region in regions]
        asked = [i for i, thing in enumerate(likeliest) if sound.voiced[thing] and sound.heard[thing] >= LEAST_HEARD]
        if not asked:
            return list(regions)
        seen = dict(enumerate(regions))
        least = SMALLEST_FACE * frame.shape[1]
        faces = self.faces.detect_of(frame, torch.stack([regions[i].box for i in asked]))
        for i, each in zip(asked, faces, strict=True):
            if not bool((each.boxes[:, 3] - each.boxes[:, 1] >= least).any()):
                seen[i] = replace(regions[i], seen=regions[i].seen * ~sound.voiced)
        return list(seen.values())

    def _alike(self, logits: Tensor) -> Tensor:
        """How much each place looks like each thing (things, h, w), beside the other places of the frame.

        `logits` (1000, h, w). They tell better where a thing is than probabilities do, which tell better whether.
        """
        own = (logits - logits.amax()).exp()
        return torch.einsum("chw,tc->thw", own, (self._table.imagenet > 0).float()).log()

    def _boxed(self, boxes: Boxes, maps: Tensor, size: tuple[int, int]) -> Iterator[_Region]:
        """Those of the detector. A thing may be seen by its box, or in its box."""
        for box, scores in zip(boxes.boxes, boxes.scores, strict=True):
            named = (scores * self._table.coco).amax(dim=-1)
            yield _Region(box=box, seen=1 - (1 - named) * (1 - scores.amax() * _within(maps, box, size)))

    def _found(
        self,
        region: _Region,
        heard: Tensor,
        called: Mapping[int, tuple[str, ...]],
        alike: Tensor,
        size: tuple[int, int],
    ) -> Found | None:
        """None if it is more likely something that was not asked for."""
        likely = heard * region.seen
        order = [int(i) for i in likely.argsort(descending=True) if likely[i] >= LEAST_LIKELY * likely.amax()]
        names: dict[str, float] = {}
        for thing in order:
            for name in called.get(thing, ()):
                names.setdefault(name, float(likely[thing]))
        if order[0] not in called:
            return None
        own = alike[order[0]]
        x0, y0, x1, y1 = region.box.tolist()
        return Found(
            names=names,
            heard=float(heard[order[0]]),
            box=(x0, y0, x1, y1),
            sure=region.points is None,
            places=(own - own.mean()) / own.std().clamp(min=1e-6) if own.isfinite().all() else torch.zeros_like(own),
            prompts=tuple(self._prompts(region, size)),
        )

    def places(self, image: Tensor) -> Tensor:
        return self._parts[1].features(image[None])[0]

    def ask(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """By the box and its middle."""
        device = next(self.parameters()).device
        middles = boxes.view(-1, 2, 2).mean(dim=1, keepdim=True).to(device)
        within = torch.ones(len(boxes), 1, device=device)
        return self._parts[2].prompt_tokens(size, boxes=boxes.to(device), points=middles, point_labels=within)

    def _prompts(self, region: _Region, size: tuple[int, int]) -> Iterator[Tensor]:
        ask, device = partial(self._parts[2].prompt_tokens, size), next(self.parameters()).device
        box = region.box[None].to(device)
        if region.points is None:
            yield ask(boxes=box)[0]
            yield self.ask(box, size)[0]
        else:
            points, within = region.points[None].to(device), torch.ones(1, len(region.points), device=device)
            yield ask(points=points, point_labels=within)[0]
            yield ask(boxes=box, points=points, point_labels=within)[0]


def _called(names: tuple[str, ...], learned: tuple[str, ...]) -> Mapping[int, tuple[str, ...]]:
    """What the things that are asked for are called, by their numbers; those that were learned have the last ones."""
    number = {name: index for index, name in enumerate(things())}
    called: dict[int, tuple[str, ...]] = {}
    for name, meant in match(names).items():
        for thing in meant:
            called[number[thing.name]] = (*called.get(number[thing.name], ()), name)
    return called | {len(number) + i: (name,) for i, name in enumerate(learned) if not names or name in names}


def _within(maps: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean of maps (things, h, w) over the places whose middles lie in the box, one at least: (things,)."""
    height, width = maps.shape[1:]
    scale = box.new_tensor([width / size[1], height / size[0]] * 2)
    x0, y0, x1, y1 = (box * scale).tolist()
    left, top = min(int(x0 + 0.5), width - 1), min(int(y0 + 0.5), height - 1)
    return maps[:, top : max(top + 1, int(y1 + 0.5)), left : max(left + 1, int(x1 + 0.5))].mean(dim=(1, 2))


def _mapped(maps: Tensor, alike: Tensor, thing: int, size: tuple[int, int]) -> Iterator[_Region]:
    """Where a thing is seen at all, the place that is most like it, and all around that is like it."""
    if float(maps[thing].amax()) < LEAST_MAP:
        return
    own = alike[thing]
    row, column = divmod(int(own.argmax()), own.shape[1])
    level = own.mean() + AROUND * (own.amax() - own.mean())
    _, parts, stats, _ = cv2.connectedComponentsWithStats((own >= level).numpy().astype(np.uint8))
    x, y, width, height, _ = stats[parts[row, column]]
    scale = torch.tensor([size[1] / own.shape[1], size[0] / own.shape[0]])
    yield _Region(
        box=torch.tensor([x, y, x + width, y + height]) * scale.repeat(2),
        seen=maps.amax(dim=(1, 2)) * (torch.arange(len(maps)) == thing),
        points=torch.tensor([[column + 0.5, row + 0.5]]) * scale,
    )


def _chosen(regions: Sequence[_Region], heard: Tensor) -> list[_Region]:
    """Those in which what is heard is seen, the likeliest first; several may be of one thing."""
    chosen: list[tuple[int, _Region]] = []
    scored = sorted(((float((heard * each.seen).amax()), i) for i, each in enumerate(regions)), reverse=True)
    for _, i in scored:
        region = regions[i]
        thing = int((heard * region.seen).argmax())
        least = LEAST_SEEN if region.points is None else LEAST_MAP
        if heard[thing] < LEAST_HEARD or region.seen[thing] < least:
            continue
        first = next((each for other, each in chosen if other == thing), None)
        if first and _area(region.box) < SMALLEST * _area(first.box):
            continue
        if any(_shared(region.box, each.box) > OVERLAP for _, each in chosen):
            continue
        chosen.append((thing, region))
    return [region for _, region in chosen]


def _area(box: Tensor) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _shared(first: Tensor, second: Tensor) -> float:
    """What two boxes have in common, as a share of the smaller one."""
    low, high = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    return float((high - low).clamp(min=0).prod()) / max(1e-6, min(_area(first), _area(second)))
