"""A small data set of composed clips in AVSBench's layouts, for all that reads AVSBench.

A clip is five seconds long; the frame of second k is the scene at k + 15/16 s, AVSBench's rule. In s4 the one thing
that can sound does so in every second; in ms3 two or three take turns, and now and then nothing sounds. What is hidden
or silent has no mask.
"""

import csv
import os
import wave
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from av2t_core.avsbench import FRAMES, SIZE, SPLITS, LabelledClip, Split, clip_at
from av2t_core.compose.clip import ClipRecipe, draw_recipe, scene_of, soundtrack
from av2t_core.compose.cutouts import SAMPLE_RATE, Cutouts
from av2t_core.errors import AV2TError

SetLayout = Literal["s4", "ms3"]

TABLES: dict[SetLayout, tuple[str, tuple[str, ...]]] = {
    "s4": ("s4_meta_data.csv", ("name", "start", "category", "split")),
    "ms3": ("ms3_meta_data.csv", ("name", "start", "label", "split")),
}
"""The file and its columns."""

# With so many frames a second one lies exactly at 15/16.
_FPS = 16
_KEYFRAME = 15 / 16


@dataclass(frozen=True, kw_only=True)
class SetRecipe:
    """`labels` are classes of the cut-outs, `shares` percent of train, val and test. `most`: at most so many things in
    view that can sound, in ms3, where it is two or more.

    AV2TError: the labels are too few for ms3.
    """

    layout: SetLayout
    clips: int
    labels: tuple[str, ...]
    seed: int = 0
    shares: tuple[int, int, int] = (70, 15, 15)
    most: int = 3

    def __post_init__(self) -> None:
        if self.layout == "ms3" and len(self.labels) < 2:
            raise AV2TError(f"ms3 needs two classes that sound by turns; there is only {', '.join(self.labels)}")

    @property
    def splits(self) -> list[Split]:
        """Of each clip: every clip goes where most is lacking, so that more clips leave the earlier ones' as it is."""
        counts = dict.fromkeys(SPLITS, 0)
        splits: list[Split] = []
        for index in range(self.clips):
            lacking = {s: share * (index + 1) / 100 - counts[s] for s, share in zip(SPLITS, self.shares, strict=True)}
            splits.append(max(SPLITS, key=lacking.__getitem__))
            counts[splits[-1]] += 1
        return splits


def write_set(out: Path, cutouts: Cutouts, recipe: SetRecipe, done: Callable[[], object] = lambda: None) -> None:
    """The table comes last, so that what has one is complete. `done` is called after each clip.

    AV2TError: `out` holds a data set already.
    """
    for name, _ in TABLES.values():
        if (out / name).exists():
            raise AV2TError(f"{out} holds a data set already ({name}): choose a new folder, sets are never mixed")
    name, columns = TABLES[recipe.layout]
    rows = []
    for index, split in enumerate(recipe.splits):
        clip = write_set_clip(out, cutouts, recipe, index, split)
        rows.append((clip.video, 0, clip.category, clip.split))
        done()
    partial = out / f".{name}"
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    os.replace(partial, out / name)


def write_set_clip(out: Path, cutouts: Cutouts, recipe: SetRecipe, index: int, split: Split) -> LabelledClip:
    """Frames, masks and sound of one clip, which follow from the recipe's seed and `index` alone."""
    rng = np.random.default_rng([recipe.seed, index])
    drawn = _draw(rng, recipe)
    scene, sound = scene_of(rng, cutouts, drawn), soundtrack(rng, cutouts, drawn)
    clip = clip_at(out, recipe.layout, f"c{index:04}", "+".join(drawn.labels), split)
    for folder in {path.parent for path in clip.files}:
        folder.mkdir(parents=True, exist_ok=True)
    for second, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        image, owner = scene.draw(second + _KEYFRAME)
        Image.fromarray(image).save(frame, compress_level=1)  # four times as fast, a sixth larger
        if mask is not None:
            sounding = scene.mask(owner, drawn.sounding[second])
            Image.fromarray(sounding.astype(np.uint8) * 255).save(mask)
    _write_wav(clip.sound, sound)
    return clip


def _draw(rng: np.random.Generator, recipe: SetRecipe) -> ClipRecipe:
    several = recipe.layout == "ms3"
    drawn = draw_recipe(
        rng,
        recipe.labels,
        seconds=FRAMES,
        least=2 if several else 1,
        most=min(recipe.most, len(recipe.labels)) if several else 1,
        width=SIZE,
        height=SIZE,
        fps=_FPS,
    )
    if several:
        return replace(drawn, silent=min(drawn.silent, 1))
    return replace(drawn, sounding=(drawn.labels,) * FRAMES)


def _write_wav(path: Path, samples: NDArray[np.float32]) -> None:
    """16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
