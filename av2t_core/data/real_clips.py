"""Real clips with what sounds in them outlined by hand: an evaluation set that is kept as polygons, without its media.

A folder has one JSON file for each clip, named as the clip:

    source       {"file": …}: a file of the folder of media that is given; {"package": …, "file": …}: one inside a
                 package's archive; or a composition, whose fields are those of `real_media.Composition`
    width, height   pixels, as displayed
    outlines     of a composition: polygons of each label, in pixels of the picture
    keyframes    one for each window of the clip, in order:
                 time       seconds, on the clip's own clock
                 sounds     a list of {"label", "polygons"}; of a composition, of labels among `outlines`
                 heard      if nothing in view sounds: what is heard, or "" where it is silent
                 how_sure   "sure", "likely", or "unsure": then nobody can tell, and it is not scored
                 note       what tells so

A polygon is [x0, y0, x1, y1, …] in pixels, whole numbers their centres. It takes in the pixels that it runs through.

    python -m av2t_core.data.real_clips POLYGONS OUT --media FOLDER --packages FOLDER

writes OUT in the layout clips of `avsbench`, for `av2t evaluate OUT --layout clips`; OUT/media has the clips
themselves, for `av2t predict`. --available leaves out clips whose source is not given. --sources lists what is needed.
"""

import argparse
import csv
import json
import shutil
import sys
import wave
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from av2t_core.data.avsbench import SOUNDING, SOUNDING_COLUMNS, DataError, LabelledClip, clip_at
from av2t_core.data.composed_clip import save_mask
from av2t_core.data.real_media import Composition, Laid, Material, Member
from av2t_core.errors import AV2TError
from av2t_core.media.clip import Clip, Window

TABLE = ("clips_meta_data.csv", ("name", "label", "split", "frames", "without_mask"))
_SAME_TIME = 0.02  # seconds between a keyframe's time as noted and as decoded
_SHIFT = 4  # bits below a pixel with which cv2 takes a polygon's points
_SILENT_RATE = 16_000  # Hz, of clips without sound

HowSure = Literal["sure", "likely", "unsure"]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """What sounds in view: all that lies in any of the polygons (N, 2), in pixels of the frame."""

    label: str
    polygons: tuple[NDArray[np.float64], ...]

    def mask(self, height: int, width: int) -> Mask:
        mask = np.zeros((height, width), np.uint8)
        for polygon in self.polygons:
            cv2.fillPoly(mask, [np.round(polygon * 2**_SHIFT).astype(np.int32)], 1, shift=_SHIFT)
        return mask.astype(np.bool_)


@dataclass(frozen=True, kw_only=True)
class LabelledKeyframe:
    """`things`: what sounds in view. `heard`: what else is heard, "" if nothing."""

    time: float
    things: tuple[Thing, ...]
    heard: str
    how_sure: HowSure

    @property
    def scored(self) -> bool:
        return self.how_sure != "unsure"


@dataclass(frozen=True, kw_only=True)
class RealClip:
    name: str
    source: Member | Composition
    width: int
    height: int
    keyframes: tuple[LabelledKeyframe, ...]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What sounds in view somewhere in the clip."""
        return tuple(dict.fromkeys(thing.label for each in self.keyframes if each.scored for thing in each.things))

    @property
    def members(self) -> tuple[Member, ...]:
        """The files that it is made of."""
        if isinstance(self.source, Member):
            return (self.source,)
        return (self.source.picture, *(laid.recording for laid in self.source.sounds))

    def mask(self, keyframe: LabelledKeyframe) -> Mask:
        """What sounds, (height, width)."""
        mask = np.zeros((self.height, self.width), np.bool_)
        for thing in keyframe.things:
            mask |= thing.mask(self.height, self.width)
        return mask


def read_real_clips(folder: Path) -> list[RealClip]:
    """DataError: there is none, or a file is not as described above."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise DataError(f"{folder} has no clip: it should hold a JSON file for each")
    return [_read(path) for path in paths]


def write_set(
    out: Path, clips: Sequence[RealClip], material: Material, done: Callable[[], object] = lambda: None
) -> None:
    """Frames, masks, sounds and media below `out`, the table last. `done` is called after each clip.

    AV2TError: a source is missing, or a clip is not the one that was outlined.
    """
    material.gather(member for clip in clips for member in clip.members)
    written = []
    for clip in clips:
        written.append((clip, _write_clip(out, clip, material)))
        done()
    rows = (row for clip, _ in written for row in _sounding_rows(clip))
    _write_csv(out / SOUNDING, SOUNDING_COLUMNS, rows)
    _write_csv(out / TABLE[0], TABLE[1], (_table_row(clip, files) for clip, files in written))


def _write_clip(out: Path, clip: RealClip, material: Material) -> LabelledClip:
    media, own = out / "media", out / "clips" / clip.name
    media.mkdir(parents=True, exist_ok=True)
    path = media / f"{clip.name}.mp4"
    if isinstance(clip.source, Composition):
        clip.source.write(path, material)
    else:
        source = material.path(clip.source)
        path = path.with_suffix(source.suffix)
        shutil.copyfile(source, path)
    with Clip(path) as decoded:
        windows = list(decoded.windows())
    _check_windows(clip, windows, path)
    without = frozenset(index for index, keyframe in enumerate(clip.keyframes) if not keyframe.scored)
    files = clip_at(out, "clips", clip.name, "+".join(clip.labels), "test", len(windows), without)
    for folder in (own / "frames", own / "masks"):
        folder.mkdir(parents=True, exist_ok=True)
    for window, keyframe, frame, mask in zip(windows, clip.keyframes, files.frames, files.masks, strict=True):
        Image.fromarray(window.image).save(frame, compress_level=1)
        if mask is not None:
            save_mask(mask, clip.mask(keyframe))
    _write_wav(files.sound, windows)
    return files


def _check_windows(clip: RealClip, windows: Sequence[Window], path: Path) -> None:
    """That `path` is what was outlined. DataError: it is not."""
    height, width = windows[0].image.shape[:2]
    if (width, height) != (clip.width, clip.height):
        raise DataError(f"{path} is {width}x{height}, and {clip.name} was outlined at {clip.width}x{clip.height}")
    times = [window.keyframe.time for window in windows]
    noted = [keyframe.time for keyframe in clip.keyframes]
    if len(times) != len(noted) or any(abs(a - b) > _SAME_TIME for a, b in zip(times, noted, strict=True)):
        raise DataError(f"{path} has its keyframes at {times}, and {clip.name} was outlined at {noted}")


def _write_wav(path: Path, windows: Sequence[Window]) -> None:
    """16 bit, the seconds of all windows one after the other."""
    rate = max(window.sound.rate for window in windows) or _SILENT_RATE
    channels = max(len(window.sound.samples) for window in windows)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        for window in windows:
            second = window.sound.second if window.sound.rate else np.zeros((channels, rate), np.float32)
            file.writeframes(np.round(np.clip(second, -1, 1) * 32767).astype("<i2").T.tobytes())


def _sounding_rows(clip: RealClip) -> Iterator[tuple[str, int, str, str]]:
    for index, keyframe in enumerate(clip.keyframes):
        in_view = list(dict.fromkeys(thing.label for thing in keyframe.things))
        heard = [*in_view, *([keyframe.heard] if keyframe.heard else [])]
        yield clip.name, index + 1, "+".join(heard), "+".join(in_view)


def _table_row(clip: RealClip, files: LabelledClip) -> tuple[str, str, str, int, str]:
    without = "+".join(str(index) for index, mask in enumerate(files.masks) if mask is None)
    return clip.name, files.category, files.split, len(files.frames), without


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _read(path: Path) -> RealClip:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        source = _source(content["source"])
        outlines = {label: _polygons(each) for label, each in content.get("outlines", {}).items()}
        return RealClip(
            name=path.stem,
            source=source,
            width=content["width"],
            height=content["height"],
            keyframes=tuple(_keyframe(each, source, outlines) for each in content["keyframes"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a clip's outlines ({error!r})") from None


def _source(content: dict[str, Any]) -> Member | Composition:
    if "picture" not in content:
        return Member(**content)
    first, last = content["views"]
    return Composition(
        picture=Member(**content["picture"]),
        views=(tuple(first), tuple(last)),
        size=tuple(content["size"]),
        seconds=content["seconds"],
        sounds=tuple(Laid(**{**each, "recording": Member(**each["recording"])}) for each in content["sounds"]),
        crf=content.get("crf", Composition.crf),
    )


def _polygons(content: list[list[float]]) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.asarray(each, np.float64).reshape(-1, 2) for each in content)


def _keyframe(
    content: dict[str, Any], source: Member | Composition, outlines: dict[str, tuple[NDArray[np.float64], ...]]
) -> LabelledKeyframe:
    time, things = content["time"], []
    for each in content.get("sounds", ()):
        if isinstance(source, Composition):
            polygons = tuple(source.to_clip(polygon, time) for polygon in outlines[each])
            things.append(Thing(label=each, polygons=polygons))
        else:
            things.append(Thing(label=each["label"], polygons=_polygons(each["polygons"])))
    how_sure = content["how_sure"]
    if how_sure not in get_args(HowSure):
        raise ValueError(f"how_sure is {how_sure!r}; it may be {', '.join(get_args(HowSure))}")
    return LabelledKeyframe(time=time, things=tuple(things), heard=content.get("heard", ""), how_sure=how_sure)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write the evaluation set of real clips.")
    parser.add_argument("polygons", type=Path, help="folder with a JSON file for each clip")
    parser.add_argument("out", type=Path, nargs="?", help="folder for the set")
    parser.add_argument("--media", type=Path, help="folder with the clips that are named by file")
    parser.add_argument("--packages", type=Path, help="folder with the packages' archives")
    parser.add_argument("--available", action="store_true", help="leave out clips whose source is not given")
    parser.add_argument("--sources", action="store_true", help="list what the clips are made of, and write nothing")
    asked = parser.parse_args()
    clips = read_real_clips(asked.polygons)
    if asked.sources or asked.out is None:
        members = {member for clip in clips for member in clip.members}
        print(*sorted(f"{each.package or '--media'}: {each.file}" for each in members), sep="\n")
        return
    material = Material(asked.media, asked.packages, asked.out / "material")
    if asked.available:
        clips = [clip for clip in clips if all(map(material.has, clip.members))]
    write_set(asked.out, clips, material)
    frames = [(clip, keyframe) for clip in clips for keyframe in clip.keyframes if keyframe.scored]
    masked = sum(bool(keyframe.things) for _, keyframe in frames)
    print(f"{len(clips)} clips in {asked.out}: {masked} keyframes with a mask, {len(frames) - masked} without")


if __name__ == "__main__":
    try:
        _main()
    except AV2TError as error:
        sys.exit(str(error))
