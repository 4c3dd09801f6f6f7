"""AVSBench on disk: its clips of five seconds, each with a frame a second, the masks of what sounds, and the sound.

AVSBench-object (Zhou et al., "Audio-Visual Segmentation", ECCV 2022) has a single-source part, s4, and a multi-source
part, ms3. Their folders stand beside the table or in s4_data/ and ms3_data/, and both in Single-source/ and
Multi-sources/ if the root is the folder above. AVSBench-semantic (arXiv 2301.13190) has the same clips again, v1s and
v1m, as its authors' loader reads them. Of the training clips of s4 and v1s the first frame alone has a mask.

The project's own layout, clips, is for clips of any length, see `real_clips`: frames and masks at the clip's own size,
clips/VIDEO/frames/000.png and clips/VIDEO/masks/000.png, counted from 0 as predictions are counted; the table says how
many there are, and which have no mask because nobody can tell what sounds.
"""

import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from av2t_core.errors import AV2TError, MediaError, Remedy
from av2t_core.media.sound import Sound, Soundtrack

Layout = Literal["s4", "ms3", "v1s", "v1m", "clips"]
Split = Literal["train", "val", "test"]
Hearing = Literal["own", "shuffled", "muted"]
"""What clips are heard with: a model that answers alike to all three does not listen."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
SPLITS: tuple[Split, ...] = get_args(Split)
FRAMES = 5
SOUNDING = "sounding.csv"
SOUNDING_COLUMNS = ("video", "second", "sounding", "in_view")
"""What composed data sets have beside the table: seconds count from 1, of labels there may be several, as a+b."""
SIZE = 224
"""The side of the square at which masks are compared, in training and in every published score."""

_LONGEST = 240  # bytes of a name, which becomes longer in the names of files


class DataError(AV2TError):
    """A data set, or a file of it, cannot be used as it is."""


@dataclass(frozen=True, kw_only=True)
class LabelledClip:
    """`frames`, one a second; `masks` are as many, None where a frame was not annotated."""

    video: str
    category: str  # "" where the table has none
    split: Split
    frames: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    sound: Path
    heard: frozenset[int] = frozenset()  # seconds in which something sounds, seen or not, where that is known
    names: Mapping[int, frozenset[str]] = field(default_factory=dict, hash=False)  # of what sounds in view, by seconds

    @property
    def labelled(self) -> list[int]:
        """The indices of the frames that have a mask."""
        return [index for index, mask in enumerate(self.masks) if mask is not None]

    @property
    def files(self) -> list[Path]:
        return [*self.frames, *(mask for mask in self.masks if mask is not None), self.sound]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """`table` and the columns in it of the video, of its category ("" for none) and, in v1s and v1m, of its part.

    `frames` and `without_mask` are columns of the layout clips: a count, and indices as 2+7.
    `frame`, `mask` and `sound` are paths below the table or below `data` beside it; {i} counts from 0, {number} from 1.
    """

    folders: tuple[str, ...] = ("",)
    table: str
    data: str = ""
    category: str
    video: str = ""  # the first column
    part: str = ""
    frames: str = ""
    without_mask: str = ""
    frame: str
    mask: str
    sound: str


_S4 = _Place(
    folders=("", "Single-source"),
    table="s4_meta_data.csv",
    data="s4_data",
    category="category",
    frame="visual_frames/{split}/{category}/{video}/{video}_{number}.png",
    mask="gt_masks/{split}/{category}/{video}/{video}_{number}.png",
    sound="audio_wav/{split}/{category}/{video}.wav",
)
_MS3 = _Place(
    folders=("", "Multi-sources"),
    table="ms3_meta_data.csv",
    data="ms3_data",
    category="label",
    frame="visual_frames/{video}/{video}.mp4_{number}.png",
    mask="gt_masks/{split}/{video}/{video}_{number}.png",
    sound="audio_wav/{split}/{video}.wav",
)
_SEMANTIC = _Place(
    table="metadata.csv",
    category="a_obj",
    video="uid",
    part="label",
    frame="{layout}/{video}/frames/{i}.jpg",
    mask="{layout}/{video}/labels_rgb/{i}.png",
    sound="{layout}/{video}/audio.wav",
)
_CLIPS = _Place(
    table="clips_meta_data.csv",
    category="label",
    frames="frames",
    without_mask="without_mask",
    frame="clips/{video}/frames/{i:03}.png",
    mask="clips/{video}/masks/{i:03}.png",
    sound="clips/{video}/sound.wav",
)
_PLACES: dict[Layout, _Place] = {"s4": _S4, "ms3": _MS3, "v1s": _SEMANTIC, "v1m": _SEMANTIC, "clips": _CLIPS}


def table_of(root: Path, layout: Layout) -> Path:
    """The table with the splits. DataError: there is none."""
    place = _PLACES[layout]
    candidates = [root / folder / place.table for folder in place.folders]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        others = [other for other, its in _PLACES.items() if any((root / f / its.table).is_file() for f in its.folders)]
        hint = f"; it looks like the layout {' or '.join(others)}" if others else ""
        raise DataError(f"{root} has no {place.table}, so it is no data set of the layout {layout}{hint}")
    return found


def read_table(root: Path, layout: Layout) -> list[LabelledClip]:
    """The clips of every split in the order of the table. Whether their files exist is not looked at.

    DataError: the table is missing or cannot be read, a name in it is no name, or it has no clip of this layout.
    """
    table, place = table_of(root, layout), _PLACES[layout]
    folder = table.parent / place.data if (table.parent / place.data).is_dir() else table.parent
    clips = [clip_at(folder, layout, *row) for row in _rows(table, place, layout)]
    if not clips:
        raise DataError(f"{table} has no clip of the layout {layout}")
    heard = _heard(table.with_name(SOUNDING))
    return [replace(clip, heard=frozenset(heard[clip.video]), names=heard[clip.video]) for clip in clips]


def read_clips(root: Path, layout: Layout, split: Split) -> list[LabelledClip]:
    """Those of one split. DataError: as of `read_table`, and if there is none of this split."""
    clips = [clip for clip in read_table(root, layout) if clip.split == split]
    if not clips:
        raise DataError(f"{table_of(root, layout)} has no clip of the split {split}")
    return clips


def clip_at(
    folder: Path,
    layout: Layout,
    video: str,
    category: str,
    split: Split,
    frames: int = FRAMES,
    without_mask: frozenset[int] = frozenset(),
) -> LabelledClip:
    """A clip's files below `folder`, which holds visual_frames, v1s and v1m, or clips."""
    place = _PLACES[layout]

    def path(template: str, i: int = 0) -> Path:
        return folder / template.format(layout=layout, video=video, category=category, split=split, i=i, number=i + 1)

    if layout in ("s4", "v1s") and split == "train":
        without_mask = frozenset(range(1, frames))
    return LabelledClip(
        video=video,
        category=category,
        split=split,
        frames=tuple(path(place.frame, i) for i in range(frames)),
        masks=tuple(None if i in without_mask else path(place.mask, i) for i in range(frames)),
        sound=path(place.sound),
    )


def _heard(path: Path) -> dict[str, dict[int, frozenset[str]]]:
    """Of each video the seconds in which something sounds, with what of it is in view; none without the file."""
    found: dict[str, dict[int, frozenset[str]]] = defaultdict(dict)
    if not path.is_file():
        return found
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                video, second, sounding, in_view = (row[column] for column in SOUNDING_COLUMNS)
                if sounding:
                    found[video][int(second) - 1] = frozenset(sounding.split("+")) & frozenset(in_view.split("+"))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read as a table of {', '.join(SOUNDING_COLUMNS)} ({error!r}); remove it"
            " to measure without what it tells of sounds from out of view"
        ) from None
    return found


def shuffled(clips: Sequence[LabelledClip], seed: int) -> list[LabelledClip]:
    """For each clip another one, and each one once; of another category as far as the largest category leaves any.

    DataError: there is but one clip.
    """
    if len(clips) < 2:
        raise DataError(f"sounds can be shuffled among two clips or more, and {clips[0].video} is the only one")
    categories: dict[str, list[int]] = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(clips)).tolist():
        categories[clips[index].category].append(index)
    ring = [index for category in categories.values() for index in category]
    # On a ring of categories, one after the other, a step as long as the longest leads out of each of them.
    longest = max(map(len, categories.values()))
    step = longest if longest < len(ring) else 1
    others = {index: clips[ring[(place + step) % len(ring)]] for place, index in enumerate(ring)}
    return [others[index] for index in range(len(clips))]


def missing_files(clips: Sequence[LabelledClip]) -> list[Path]:
    """Those that are named and do not exist."""
    return [path for clip in clips for path in clip.files if not path.is_file()]


def refuse_missing(missing: Sequence[Path], root: Path, layout: Layout) -> None:
    """DataError, naming the first of them, if there are any."""
    if missing:
        named = ", ".join(map(str, missing[:3]))
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"{root} lacks {named}{more}", Remedy.CHECK_DATA, root=root, layout=layout)


def read_frame(path: Path) -> NDArray[np.uint8]:
    """RGB (H, W, 3). DataError: it is missing or no picture."""
    return np.asarray(_open(path).convert("RGB"))


def read_mask(path: Path) -> NDArray[np.bool_]:
    """The pixels (H, W) that sound. DataError: it is missing or no picture.

    A grey picture is read by the half of its brightest value, whatever that is and however it is stored: 255 with
    what lies between at the edges, 1, or the grey that is the colour of a class in labels_rgb. In a picture of colours
    everything that is not black sounds.
    """
    image = _open(path)
    if image.mode.startswith("I"):  # 16 bits
        grey = np.asarray(image)
    else:
        pixels = np.asarray(image.convert("RGB"))
        grey = pixels[..., 0]
        if (pixels != grey[..., None]).any():
            return np.asarray(pixels.any(axis=-1), np.bool_)
    return np.asarray(grey > int(grey.max()) // 2, np.bool_)


def read_target(path: Path) -> NDArray[np.bool_]:
    """A mask at the size at which it is compared: (SIZE, SIZE)."""
    mask = read_mask(path)
    if mask.shape == (SIZE, SIZE):
        return mask
    return cv2.resize(mask.view(np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT).view(np.bool_)


def read_sounds(path: Path, seconds: int) -> list[Sound]:
    """The first seconds of a recording; silence where it is shorter. DataError: it is missing or cannot be decoded."""
    try:
        with Soundtrack(path) as track:
            if not track.rate:
                raise DataError(f"{path} holds no sound that can be decoded")
            return [track.second(second) for second in range(seconds)]
    except MediaError:
        raise DataError(f"{path} {'cannot be read as sound' if os.path.isfile(path) else 'is missing'}") from None


def _open(path: Path) -> Image.Image:
    try:
        # Pillow knows many formats more, of which some start programs.
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            file.load()
            file.info.pop("transparency", None)  # of a palette's colours, about which Pillow warns when it drops it
            return file
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is no PNG or JPEG picture") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path} cannot be read ({error.strerror})") from None
        raise DataError(f"{path} is damaged ({error})") from None


def _rows(table: Path, place: _Place, layout: Layout) -> Iterator[tuple[str, str, Split, int, frozenset[int]]]:
    """Video, category, split, frames and those without a mask, of each row that is of this layout."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            # In s4 the category is a folder.
            category = place.category if layout == "s4" else ""
            needed = [place.video, place.part, category, place.frames, place.without_mask, "split"]
            if absent := [name for name in needed if name and name not in columns]:
                raise DataError(f"{table} has no column {absent[0]!r}; it has {', '.join(columns) or 'none'}")
            for row in reader:
                if place.part and row[place.part] != layout:
                    continue
                where = f"{table}, line {reader.line_num}"
                video, split = row[place.video or columns[0]], row["split"]
                category = (row.get(place.category) or "").strip()
                for name in filter(None, (video, category if layout == "s4" else "")):
                    folder = "/" not in name and name not in (".", "..") and len(name.encode()) <= _LONGEST
                    if not (folder and name.isprintable()):
                        raise DataError(f"{where}: {name!r} is no name of a folder")
                if not video or split not in SPLITS:
                    raise DataError(
                        f"{where}: video {video!r}, split {split!r}; a row needs a video and a split of"
                        f" {', '.join(SPLITS)}"
                    )
                if layout == "s4" and not category:
                    raise DataError(f"{where}: {video!r} has no category, the folder it lies in")
                frames = _count(row[place.frames] or "", where) if place.frames else FRAMES
                without = [index for index in (row.get(place.without_mask) or "").split("+") if index]
                yield video, category, cast(Split, split), frames, frozenset(_count(each, where) for each in without)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read ({error})") from None


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise DataError(f"{where}: {text!r} is no count of frames, nor the index of one")
    return int(text)
