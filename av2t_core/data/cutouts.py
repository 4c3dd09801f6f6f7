"""The material: a folder of photographs with alpha and recordings of the same thing.

sounding/<class>/image_*.png   RGBA          sounding/<class>/sound_*.flac   mono
silent/*.png                   RGBA, things that make no sound
backgrounds/*.jpg              RGB; without any, backgrounds are generated
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from av2t_core.data.avsbench import Split
from av2t_core.errors import AV2TError
from av2t_core.media.sound import SILENCE

SAMPLE_RATE = 16_000

Image = NDArray[np.uint8]
Sound = NDArray[np.float32]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Cutouts:
    """`images` and `sounds` by class, in the same order of classes; RGBA images are premultiplied."""

    labels: tuple[str, ...]
    images: dict[str, tuple[Image, ...]]
    sounds: dict[str, tuple[Sound, ...]]
    silent: tuple[Image, ...]
    backgrounds: tuple[Image, ...]

    @classmethod
    def load(cls, root: Path, group: str = "sounding") -> "Cutouts":
        """`group`: the folder of the sounding classes. AV2TError if there is no class with an image and a sound."""
        folders = sorted(path for path in (root / group).glob("*") if path.is_dir())
        images = {path.name: tuple(map(read_cutout, sorted(path.glob("image_*.png")))) for path in folders}
        sounds = {path.name: tuple(map(read_sound, sorted(path.glob("sound_*.flac")))) for path in folders}
        labels = tuple(path.name for path in folders if images[path.name] and sounds[path.name])
        if not labels:
            raise AV2TError(
                f"{root / group} holds no class: it needs folders <class>/ with image_*.png (RGBA) and sound_*.flac"
            )
        return cls(
            labels=labels,
            images={label: images[label] for label in labels},
            sounds={label: sounds[label] for label in labels},
            silent=tuple(map(read_cutout, sorted((root / "silent").glob("*.png")))),
            backgrounds=tuple(map(_read_background, sorted((root / "backgrounds").glob("*.jpg")))),
        )

    def part(self, split: Split, *, new: bool = False) -> "Cutouts":
        """What one split may use: no two share a background or a silent thing.

        Of a class with several photographs the last is held out, and so with recordings: train never has it. `new`: in
        place of what train has, this one, of the classes that have one; a class with one recording is heard by that.
        """
        images = {label: _held_out(self.images[label], new) for label in self.labels}
        labels = tuple(label for label in self.labels if images[label])
        sounds = {label: _held_out(self.sounds[label], new) or self.sounds[label] for label in labels}
        return Cutouts(
            labels=labels,
            images={label: images[label] for label in labels},
            sounds=sounds,
            silent=_share(self.silent, split),
            backgrounds=_share(self.backgrounds, split),
        )


def _held_out(items: tuple[T, ...], new: bool) -> tuple[T, ...]:
    """The last of several if `new`, or all others; the only one is never new."""
    several = len(items) > 1
    return (items[-1:] if several else ()) if new else (items[:-1] if several else items)


def _share(items: tuple[T, ...], split: Split) -> tuple[T, ...]:
    """Eight tenths for train, one for val and one for test, in an order that is always the same."""
    tenth = round(len(items) / 10) or len(items) // 3
    order = np.random.default_rng(0).permutation(len(items))
    chosen = {"val": order[:tenth], "test": order[tenth : 2 * tenth], "train": order[2 * tenth :]}[split]
    return tuple(items[i] for i in sorted(chosen))


def read_cutout(path: Path) -> Image:
    """An RGBA image (H, W, 4), cropped to what is visible and premultiplied by its alpha."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4:
        raise AV2TError(f"{path} is not a PNG with an alpha channel")
    image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    rows, columns = np.nonzero(image[..., 3] > 8)
    if not rows.size:
        raise AV2TError(f"{path} is transparent all over")
    image = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    image[..., :3] = (image[..., :3].astype(np.uint16) * image[..., 3:] + 127) // 255
    return np.ascontiguousarray(image)


def shrunk(image: Image, scale: float) -> Image:
    """Each pixel the mean of those that it stands for; `scale` at most 1, and no side shorter than a pixel."""
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def read_sound(path: Path) -> Sound:
    """A recording as mono samples in -1..1 at SAMPLE_RATE. AV2TError: it cannot be decoded, or nothing is in it."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
    try:
        with av.open(str(path)) as container:
            chunks = [r.to_ndarray()[0] for frame in container.decode(audio=0) for r in resampler.resample(frame)]
            chunks += [r.to_ndarray()[0] for r in resampler.resample(None)]
    except (av.FFmpegError, IndexError):  # no file of sound, or no sound in it
        chunks = []
    if not any(np.abs(chunk).max(initial=0) > SILENCE for chunk in chunks):
        raise AV2TError(f"{path} holds no sound that can be decoded and heard")
    return np.concatenate(chunks)


def _read_background(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise AV2TError(f"{path} is not an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
