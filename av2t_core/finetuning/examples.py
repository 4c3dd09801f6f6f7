"""Keyframes to fine-tune on: the model's inputs of each, computed once, and a person's mask of it.

Windows come from the same code that prediction uses, and are brought to the model's sizes as in a prediction; only
then are they rounded to bytes, for the cache.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from av2t_core.ahead import read_ahead
from av2t_core.data.avsbench import SIZE
from av2t_core.files import atomic_file
from av2t_core.media.clip import Window
from av2t_core.model.inputs import to_device
from av2t_core.prediction.predictor import crop
from av2t_core.versions.checkpoint import Loaded

Mask = NDArray[np.bool_]

PLACES = 8
"""Of a keyframe, that no mask covers."""

_AT_ONCE = 8  # windows
_BESIDE = ("things", "outlines", "elsewhere", "numbers")  # tensors of a clip, beside those of its keyframes


@dataclass(frozen=True, kw_only=True)
class Examples:
    """n keyframes, on the host. The first dimension of each tensor is n."""

    images: Mapping[str, Tensor]  # the segmenter's squares, (n, 3, S, S) bytes each
    v: Tensor  # (n, 2, image_width), of the frame and of its mirror image
    a: Tensor  # (n, audio_width)
    target: Tensor  # (n, SIZE, SIZE) bytes of 0 and 1

    def __len__(self) -> int:
        return len(self.a)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All, by the names above and those of the squares."""
        return {**self.images, "v": self.v, "a": self.a, "target": self.target}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From `tensors`. KeyError: one of them is missing."""
        images = dict(tensors)
        return cls(v=images.pop("v"), a=images.pop("a"), target=images.pop("target"), images=images)

    @classmethod
    def together(cls, some: Sequence[Self]) -> Self:
        """One or more."""
        each = [examples.tensors for examples in some]
        return cls.of({name: torch.cat([tensors[name] for tensors in each]) for name in each[0]})


@dataclass(frozen=True, kw_only=True)
class ClipExamples:
    """Those of one clip, and the things that people labelled in it.

    `sha256`: of the clip's file. `size`: of its frames, (H, W). `things`: (m, image_width), v of each thing's
    surroundings; `outlines` (m, SIZE, SIZE): its mask alone, bytes of 0 and 1; `labels`: the number of its keyframe,
    and what it is called. `elsewhere` (q, image_width): embeddings of places that no mask covers, and the numbers of
    their keyframes (q,); none for a model without a finder.
    """

    sha256: str
    size: tuple[int, int]
    keyframes: Examples
    things: Tensor
    outlines: Tensor
    labels: tuple[tuple[int, tuple[str, ...]], ...]
    elsewhere: Tensor
    numbers: Tensor

    def rows(self, *, apart: bool) -> "list[Row]":
        """A row for each keyframe, or for each thing `apart`."""
        if apart:
            return [Row(self, number, outline) for (number, _), outline in zip(self.labels, self.outlines, strict=True)]
        return [Row(self, number, target) for number, target in enumerate(self.keyframes.target)]

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """What `save` wrote; None if it is not there, or not whole. Mapped: what is not read takes no memory."""
        try:
            with safe_open(path, "pt") as file:
                notes = json.loads(file.metadata()["notes"])
            tensors = load_file(path)
            beside = {name: tensors.pop(name) for name in _BESIDE}
            height, width = notes["size"]
            return cls(
                sha256=notes["sha256"],
                size=(height, width),
                keyframes=Examples.of(tensors),
                labels=tuple((number, tuple(names)) for number, names in notes["labels"]),
                **beside,
            )
        except (OSError, SafetensorError, TypeError, KeyError, ValueError):
            return None

    def save(self, path: Path) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self.keyframes.tensors.items()}
        tensors |= {name: getattr(self, name).contiguous() for name in _BESIDE}
        notes = json.dumps({"sha256": self.sha256, "size": self.size, "labels": self.labels})
        with atomic_file(path) as aside:
            save_file(tensors, aside, {"notes": notes})


@dataclass(frozen=True)
class Row:
    """What is learned from at a time: a keyframe of a clip, and what is to be masked in it, (SIZE, SIZE) bytes."""

    clip: ClipExamples
    keyframe: int
    target: Tensor


class Thing(Protocol):
    """What a person calls it, and its mask (H, W), which may be unpacked whenever it is asked for."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def mask(self) -> Mask: ...


@dataclass(frozen=True, kw_only=True)
class Outlined:
    """A Thing whose mask is at hand."""

    labels: tuple[str, ...]
    mask: Mask


@torch.inference_mode()
def examples_of(
    loaded: Loaded,
    windows: Iterable[Window],
    masks: Mapping[int, Mask],
    things: Mapping[int, Sequence[Thing]],
    sha256: str,
) -> ClipExamples:
    """`masks`, `things`: by the number of the window, from 0, at native size; nothing sounds in a window without one.

    One window at least. May raise what `windows` raises.
    """
    found: list[Examples] = []
    crops: list[Tensor] = []
    outlines: list[NDArray[np.uint8]] = []
    elsewhere: list[Tensor] = []
    labels: list[tuple[int, tuple[str, ...]]] = []
    count = 0
    with closing(read_ahead(iter(windows), _AT_ONCE)) as ahead:
        while batch := list(islice(ahead, _AT_ONCE)):
            found.append(_examples(loaded, batch, [masks.get(count + n) for n in range(len(batch))]))
            for number, window in enumerate(batch, start=count):
                for thing in things.get(number, ()):
                    mask = thing.mask
                    seen = to_device([crop(window.image, mask)], loaded.device)
                    crops.append(loaded.image_encoder.encode(seen))
                    outlines.append(_target(mask))
                    labels.append((number, thing.labels))
                elsewhere.append(_elsewhere(loaded, window, masks.get(number), number))
            count += len(batch)
            height, width = batch[0].image.shape[:2]
    return ClipExamples(
        sha256=sha256,
        size=(height, width),
        keyframes=Examples.together(found),
        things=torch.cat(crops).float().cpu().clone() if crops else torch.zeros(0, loaded.image_encoder.width),
        outlines=torch.from_numpy(np.stack(outlines)) if outlines else torch.zeros(0, SIZE, SIZE, dtype=torch.uint8),
        labels=tuple(labels),
        elsewhere=torch.cat(elsewhere),
        numbers=torch.tensor([number for number, some in enumerate(elsewhere) for _ in some]),
    )


def _examples(loaded: Loaded, windows: Sequence[Window], truths: Sequence[Mask | None]) -> Examples:
    frames, segmenter = [window.image for window in windows], loaded.model.segmenter
    mirrored = to_device([np.ascontiguousarray(frame[:, ::-1]) for frame in frames], loaded.device)
    images = to_device(frames, loaded.device)
    v = torch.stack([loaded.image_encoder.encode(each) for each in (images, mirrored)], dim=1)
    a = loaded.audio_encoder.encode([window.sound for window in windows])
    squares = segmenter.squares(images).items()
    return Examples(
        images={name: square.round().clamp(0, 255).to(torch.uint8).cpu() for name, square in squares},
        v=v.float().cpu().clone(),
        a=a.float().cpu().clone(),
        target=torch.from_numpy(np.stack([_target(truth) for truth in truths])),
    )


def _elsewhere(loaded: Loaded, window: Window, mask: Mask | None, number: int) -> Tensor:
    """Of places (q, image_width) of a frame that a mask (H, W) does not cover."""
    if loaded.finder is None:
        return torch.zeros(0, loaded.image_encoder.width)
    [image] = to_device([window.image], loaded.device)
    embeddings = loaded.finder.places(image).float().cpu()
    height, width = embeddings.shape[1:]
    covered = np.zeros((height, width), np.float32)
    if mask is not None:
        covered = np.asarray(cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA))
    free = np.flatnonzero(covered == 0)
    return embeddings.flatten(1).T[np.random.default_rng(number).permutation(free)[:PLACES]].clone()


def _target(mask: Mask | None) -> NDArray[np.uint8]:
    """(H, W), or None where nothing sounds, to (SIZE, SIZE) of 0 and 1."""
    if mask is None:
        return np.zeros((SIZE, SIZE), np.uint8)
    return np.asarray(cv2.resize(mask.view(np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
