"""A composed clip on disk: the video with its sound, and the mask of what sounds at every keyframe."""

import json
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from av2t_core.data.augmentation import Camera, draw_camera, mix, sound_stretch
from av2t_core.data.cutouts import SAMPLE_RATE, Cutouts
from av2t_core.data.scene import Scene, draw_scene
from av2t_core.media.clip import KEYFRAME_OFFSET
from av2t_core.media.mp4 import Mp4Writer

_VISIBLE = 0.3  # of a thing that sounds: with less nobody could name it
_SCENES = 20  # tries, until all are visible
_SIZES = ((480, 270), (480, 360), (640, 360), (360, 480), (426, 240))  # width and height
_RATES = (10, 15, 24, 25, 30)  # frames a second


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """`in_view`: the labels of what is seen and can sound; `sounding`: what sounds in each second, seen or not."""

    in_view: tuple[str, ...]
    sounding: tuple[tuple[str, ...], ...]
    silent: int = 1  # things in view that never sound
    camera: Camera = field(default_factory=Camera)
    width: int = 480
    height: int = 270
    fps: int = 15


def draw_recipe(
    rng: np.random.Generator, labels: Sequence[str], *, seconds: int, most: int, least: int = 1, **canvas: int
) -> ClipRecipe:
    """`least` to `most` of the labels in view; in every second one, sometimes two, now and then none of them sounds.

    Now and then something sounds that is not in view, alone or beside what is. `canvas`: width, height and fps.
    """
    order = [labels[i] for i in rng.permutation(len(labels))]
    actors = order[: int(rng.integers(least, most + 1))]
    others = order[len(actors) :]
    sounding: list[tuple[str, ...]] = []
    for second in range(seconds):
        count = int(rng.choice([0, 1, min(2, len(actors))], p=[0.2, 0.6, 0.2]))
        # Everything that is in view is heard at least once, as far as the seconds reach.
        first = [actors[second]] if second < len(actors) else []
        more = [actor for actor in rng.permutation(actors).tolist() if actor not in first]
        heard = (first + more)[: max(len(first), count)]
        if others and rng.random() < (0.1 if heard else 0.5):
            heard = [*heard, others[int(rng.integers(len(others)))]]
        sounding.append(tuple(heard))
    silent, camera = int(rng.integers(0, 3)), draw_camera(rng)
    return ClipRecipe(in_view=tuple(actors), sounding=tuple(sounding), silent=silent, camera=camera, **canvas)


Size = tuple[int, int]  # width, height


def write_drawn_clip(
    out: Path, cutouts: Cutouts, seed: int, most: int, seconds: int, size: Size | None, fps: int | None, index: int
) -> None:
    """The clip of any index below `out`; it follows from `seed` and the index. `size`, `fps`: else one of several."""
    rng = np.random.default_rng([seed, index])
    drawn_size, drawn_fps = _SIZES[int(rng.integers(len(_SIZES)))], _RATES[int(rng.integers(len(_RATES)))]
    (width, height), fps = size or drawn_size, fps or drawn_fps
    recipe = draw_recipe(rng, cutouts.labels, seconds=seconds, most=most, width=width, height=height, fps=fps)
    write_clip(rng, cutouts, recipe, out / f"{index:03}")


def write_clip(rng: np.random.Generator, cutouts: Cutouts, recipe: ClipRecipe, out: Path) -> None:
    """OUT.mp4, OUT/masks/NNN.png (0 or 255, one for each second's keyframe) and OUT/truth.json."""
    scene, fps = scene_of(rng, cutouts, recipe), recipe.fps
    sound = soundtrack(rng, cutouts, recipe)
    (out / "masks").mkdir(parents=True, exist_ok=True)
    keyframe = min(range(fps), key=lambda frame: abs(frame / fps - KEYFRAME_OFFSET))
    with Mp4Writer(out.with_suffix(".mp4"), (recipe.height, recipe.width), Fraction(1), with_sound=True) as video:
        for second, labels in enumerate(recipe.sounding):
            for frame in range(fps):
                time = second + frame / fps
                image, owner = scene.draw(time)
                video.write_image(recipe.camera.shoot(rng, image), time, 1 / fps)
                if frame == keyframe:
                    save_mask(out / "masks" / f"{second:03}.png", scene.mask(owner, labels))
            video.write_sound(sound[None, second * SAMPLE_RATE : (second + 1) * SAMPLE_RATE], SAMPLE_RATE, second)
    truth = {"in_view": recipe.in_view, "sounding": recipe.sounding, "fps": fps}
    (out / "truth.json").write_text(json.dumps(truth) + "\n")


def scene_of(rng: np.random.Generator, cutouts: Cutouts, recipe: ClipRecipe) -> Scene:
    """A random scene of the recipe's things that start apart, and of which none that sounds is ever almost hidden."""
    for _ in range(_SCENES):
        scene = draw_scene(
            rng,
            cutouts,
            recipe.in_view,
            silent=recipe.silent,
            height=recipe.height,
            width=recipe.width,
            clear=min(0.3, 0.7 / max(1, len(recipe.in_view) + recipe.silent)),
        )
        times = np.arange(len(recipe.sounding)) + KEYFRAME_OFFSET
        shares = np.array([scene.visible(time) for time in times])  # (seconds, actors)
        if shares[:, [actor.label is not None for actor in scene.actors]].min(initial=1) >= _VISIBLE:
            break
    return scene


def soundtrack(rng: np.random.Generator, cutouts: Cutouts, recipe: ClipRecipe) -> NDArray[np.float32]:
    """The whole sound (seconds * SAMPLE_RATE,); a label that goes on sounding is not cut at the second."""
    seconds = len(recipe.sounding)
    parts = []
    for label in dict.fromkeys(label for second in recipe.sounding for label in second):
        recordings = cutouts.sounds[label]
        stretch = sound_stretch(rng, recordings[int(rng.integers(len(recordings)))], seconds)
        on = np.repeat([float(label in second) for second in recipe.sounding], SAMPLE_RATE)
        fade = SAMPLE_RATE // 50  # 20 ms: a hard edge would be a sound of its own
        on = np.minimum(on, np.convolve(on, np.ones(fade) / fade, mode="same"))
        parts.append((stretch * on).astype(np.float32))
    return mix(rng, parts, seconds * SAMPLE_RATE, noise=0.3)


def save_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """(H, W) as a picture of 0 and 255."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


T = TypeVar("T")

_task: Callable[[int], object]


def in_order(task: Callable[[int], T], count: int, jobs: int, done: Callable[[], object]) -> list[T]:
    """task(0) to task(count - 1) in `jobs` processes; `done` is called after each. `task` goes to each process once."""
    # Not forked: the parent may hold threads.
    spawn = partial(ProcessPoolExecutor, mp_context=get_context("spawn"), initializer=_prepare, initargs=(task,))
    pool, results = spawn(jobs) if jobs > 1 else None, []
    try:
        for result in pool.map(_run, range(count)) if pool else map(task, range(count)):
            results.append(cast(T, result))
            done()
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return results


def _prepare(task: Callable[[int], object]) -> None:
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to tell of
    cv2.setNumThreads(1)


def _run(index: int) -> object:
    return _task(index)
