"""A check of an AVSBench data set, file by file, before a training or an evaluation meets what is wrong."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from av2t_core.data.avsbench import (
    SPLITS,
    DataError,
    LabelledClip,
    Layout,
    Split,
    read_frame,
    read_mask,
    read_sounds,
    table_of,
)
from av2t_core.media.sound import MARGIN

Kind = Literal["missing", "unreadable", "size", "short sound", "twice", "two splits"]
Size = tuple[int, int]  # width, height
T = TypeVar("T")

# Decoding lets go of the interpreter and the rest does not: one takes half as long again, and four are no faster.
_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`file`: its path relative to the root of the data set; of a clip that stands twice, the table's."""

    file: str
    kind: Kind
    problem: str


@dataclass(kw_only=True)
class Counts:
    """`masks` are those that can be read, `empty_masks` those of them in which nothing sounds."""

    clips: int = 0
    masks: int = 0
    empty_masks: int = 0


@dataclass(kw_only=True)
class Findings:
    """`frame_sizes`: how many frames of each size can be read."""

    splits: dict[Split, Counts] = field(default_factory=lambda: {split: Counts() for split in SPLITS})
    frame_sizes: Counter[Size] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)


def check(root: Path, layout: Layout, clips: list[LabelledClip], done: Callable[[], object] = lambda: None) -> Findings:
    """Read every file of `clips`, which are those of the whole table; `done` is called after each clip."""
    findings = Findings()
    # Two clips share their frames if the table names a video twice: each problem is told once, in the table's order.
    found = dict.fromkeys(_doubles(str(table_of(root, layout).relative_to(root)), clips))
    executor = ThreadPoolExecutor(_THREADS)
    try:
        for clip, look in zip(clips, executor.map(partial(_Look, root), clips), strict=True):
            counts = findings.splits[clip.split]
            counts.clips += 1
            counts.masks += len(look.masks)
            counts.empty_masks += sum(not mask for mask in look.masks)
            findings.frame_sizes.update(look.frame_sizes)
            found |= dict.fromkeys(look.problems)
            done()
    finally:
        executor.shutdown(cancel_futures=True)
    findings.problems = list(found)
    return findings


def _doubles(table: str, clips: list[LabelledClip]) -> Iterator[Problem]:
    splits: dict[str, list[Split]] = {}
    for clip in clips:
        splits.setdefault(clip.video, []).append(clip.split)
    for video, its in splits.items():
        different = [split for split in SPLITS if split in its]
        if len(different) > 1:
            yield Problem(file=table, kind="two splits", problem=f"names {video} in {' and in '.join(different)}")
        if len(its) > len(different):
            yield Problem(file=table, kind="twice", problem=f"names {video} {len(its)} times")


class _Look:
    """What is found in one clip. `masks`: of each that can be read, whether something sounds in it."""

    def __init__(self, root: Path, clip: LabelledClip) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self.masks: list[bool] = []
        frames = [self.read(read_frame, path) for path in clip.frames]
        sizes = [None if frame is None else _size(frame) for frame in frames]
        self.frame_sizes = [size for size in sizes if size]
        usual = max(self.frame_sizes, key=self.frame_sizes.count, default=None)
        for path, frame_size in zip(clip.frames, sizes, strict=True):
            if frame_size and usual and frame_size != usual:
                self.add(path, "size", f"is {in_pixels(frame_size)}, its clip's other frames {in_pixels(usual)}")
        for mask_path, frame_size in zip(clip.masks, sizes, strict=True):
            if mask_path is None or (mask := self.read(read_mask, mask_path)) is None:
                continue
            self.masks.append(bool(mask.any()))
            size = _size(mask)
            # Where the frame is the odd one out, that has been said.
            if usual and size not in (frame_size, usual):
                self.add(mask_path, "size", f"is {in_pixels(size)}, its frame {in_pixels(frame_size or usual)}")
        count = len(clip.frames)
        sounds = self.read(partial(read_sounds, seconds=count), clip.sound) or []
        heard = sum(sound.end is None or sound.end > MARGIN for sound in sounds)
        if sounds and heard < count:
            self.add(clip.sound, "short sound", f"ends in second {heard} of {count}: no sound for the frames after it")

    def read(self, reader: Callable[[Path], T], path: Path) -> T | None:
        try:
            return reader(path)
        except DataError as error:
            kind: Kind = "unreadable" if os.path.exists(path) else "missing"
            self.add(path, kind, str(error).removeprefix(f"{path} "))
            return None

    def add(self, path: Path, kind: Kind, problem: str) -> None:
        self.problems.append(Problem(file=str(path.relative_to(self.root)), kind=kind, problem=problem))


def in_pixels(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _size(image: NDArray[np.uint8] | NDArray[np.bool_]) -> Size:
    return image.shape[1], image.shape[0]
