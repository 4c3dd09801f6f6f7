"""A data set of composed clips in AVSBench's layouts, for all that reads AVSBench.

A clip is five seconds long; the frame of second k is the scene at k + 15/16 s, AVSBench's rule. In s4 the one thing
that can sound does so in every second; in ms3 two or three take turns, and now and then nothing sounds, or something
that is not in view. What is hidden or silent has no mask.

Beside what AVSBench has, sounding.csv says what sounds in each second and what is in view, and all_objects/ holds
masks of everything in view, as `evaluation.pictures` reads them: what a model scores that hears nothing.
"""

import csv
import wave
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from av2t_core.data.avsbench import FRAMES, SIZE, SOUNDING, SOUNDING_COLUMNS, SPLITS, LabelledClip, Split, clip_at
from av2t_core.data.composed_clip import ClipRecipe, draw_recipe, in_order, save_mask, scene_of, soundtrack
from av2t_core.data.cutouts import SAMPLE_RATE, Cutouts
from av2t_core.data.scene import Scene
from av2t_core.errors import AV2TError
from av2t_core.files import atomic_file
from av2t_core.media.clip import KEYFRAME_OFFSET, Keyframe, Window
from av2t_core.media.sound import Sound

SetLayout = Literal["s4", "ms3"]

TABLES: dict[SetLayout, tuple[str, tuple[str, ...]]] = {
    "s4": ("s4_meta_data.csv", ("name", "start", "category", "split")),
    "ms3": ("ms3_meta_data.csv", ("name", "start", "label", "split")),
}
"""The file and its columns."""

_FPS = 16  # of which one frame lies exactly at 15/16

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SetRecipe:
    """`labels` are classes of the cut-outs, `shares` percent of train, val and test.

    `most`: at most so many things in view that can sound, in ms3, where it is two or more. `new`: val and test show and
    play only what train never has, see Cutouts.part.
    """

    layout: SetLayout
    clips: int
    labels: tuple[str, ...]
    seed: int = 0
    shares: tuple[int, int, int] = (70, 15, 15)
    most: int = 3
    new: bool = False

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


def write_set(
    out: Path, cutouts: Cutouts, recipe: SetRecipe, done: Callable[[], object] = lambda: None, jobs: int = 1
) -> None:
    """The table comes last, so that what has one is complete. `done` is called after each clip, `jobs` are processes.

    AV2TError: `out` holds a data set already, or the classes are too few.
    """
    for name, _ in TABLES.values():
        if (out / name).exists():
            raise AV2TError(f"{out} holds a data set already ({name}): choose a new folder, sets are never mixed")
    name, columns = TABLES[recipe.layout]
    write = partial(_write_clip, out, _parts(cutouts, recipe), recipe, recipe.splits)
    clips = in_order(write, recipe.clips, jobs, done)
    _write_csv(out / SOUNDING, SOUNDING_COLUMNS, (row for _, rows in clips for row in rows))
    _write_csv(out / name, columns, ((clip.video, 0, clip.category, clip.split) for clip, _ in clips))


def _parts(cutouts: Cutouts, recipe: SetRecipe) -> dict[Split, Cutouts]:
    """What each split is composed of. AV2TError: there are too few classes for one."""
    parts = {}
    least = 2 if recipe.layout == "ms3" else 1
    for split in dict.fromkeys(recipe.splits):
        part = cutouts.part(split, new=recipe.new and split != "train")
        labels = tuple(label for label in recipe.labels if label in part.labels)
        if len(labels) < least:
            having = " with several photographs" if recipe.new else ""
            raise AV2TError(
                f"{recipe.layout} needs {'two classes that sound by turns' if least == 2 else 'a class'}{having}; there"
                f" is {'only ' if labels else ''}{', '.join(labels) or 'none'}"
            )
        parts[split] = replace(part, labels=labels)
    return parts


def _write_clip(
    out: Path, parts: dict[Split, Cutouts], recipe: SetRecipe, splits: list[Split], index: int
) -> tuple[LabelledClip, list[tuple[str, int, str, str]]]:
    """Files of a clip, which follow from the recipe's seed and `index` alone; and its rows of sounding.csv."""
    rng = np.random.default_rng([recipe.seed, index])
    drawn, scene, sound = _compose(rng, recipe, parts[splits[index]])
    in_view = "+".join(drawn.in_view)
    clip = clip_at(out, recipe.layout, f"c{index:04}", in_view, splits[index])
    objects = [out / "all_objects" / clip.video / f"{second + 1}.png" for second in range(FRAMES)]
    for folder in {path.parent for path in (*clip.files, *objects)}:
        folder.mkdir(parents=True, exist_ok=True)
    for second, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        image, owner = scene.draw(second + KEYFRAME_OFFSET)
        shot = drawn.camera.shoot(rng, image)
        Image.fromarray(shot).save(frame, compress_level=1)  # four times as fast, a sixth larger
        if mask is not None:
            save_mask(mask, scene.mask(owner, drawn.sounding[second]))
            save_mask(objects[second], owner > 0)
    _write_wav(clip.sound, sound)
    return clip, [(clip.video, k + 1, "+".join(heard), in_view) for k, heard in enumerate(drawn.sounding)]


def composed_windows(cutouts: Cutouts, clips: int, seed: int) -> Iterator[tuple[Window, list[Mask]]]:
    """Windows of clips in memory, and the masks of the things in view that sound there.

    Every fourth clip is as in s4, the others as in ms3.
    """
    for index in range(clips):
        rng = np.random.default_rng([seed, index])
        recipe = SetRecipe(layout="ms3" if index % 4 else "s4", clips=clips, labels=cutouts.labels)
        drawn, scene, sound = _compose(rng, recipe, cutouts)
        for second in range(FRAMES):
            time = second + KEYFRAME_OFFSET
            image, owner = scene.draw(time)
            masks = [scene.mask(owner, (label,)) for label in drawn.sounding[second]]
            heard = sound[None, second * SAMPLE_RATE : (second + 1) * SAMPLE_RATE]
            window = Window(
                keyframe=Keyframe(index=second, frame=second, time=time),
                image=drawn.camera.shoot(rng, image),
                sound=Sound.alone(heard, SAMPLE_RATE),
            )
            yield window, [mask for mask in masks if mask.any()]


def _compose(
    rng: np.random.Generator, recipe: SetRecipe, cutouts: Cutouts
) -> tuple[ClipRecipe, Scene, NDArray[np.float32]]:
    """A clip of such a set: what is in view and what sounds, the scene, and the sound of all seconds."""
    labels, canvas = cutouts.labels, {"width": SIZE, "height": SIZE, "fps": _FPS}
    if recipe.layout == "ms3":
        most = min(recipe.most, len(labels))
        drawn = draw_recipe(rng, labels, seconds=FRAMES, least=2, most=most, **canvas)
        drawn = replace(drawn, silent=min(drawn.silent, 1))
    else:
        drawn = draw_recipe(rng, labels, seconds=FRAMES, most=1, **canvas)
        drawn = replace(drawn, sounding=(drawn.in_view,) * FRAMES)
    return drawn, scene_of(rng, cutouts, drawn), soundtrack(rng, cutouts, drawn)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_file(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _write_wav(path: Path, samples: NDArray[np.float32]) -> None:
    """16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
