"""The regions of an annotation → what sounds at each keyframe, as masks: `regions` the other way round.

An annotation speaks of all keyframes of its clip: at one where it has no mask nothing sounds.
"""

import base64
import binascii
import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from av2t_core.errors import AV2TError, Remedy
from av2t_core.labelstudio import rle
from av2t_core.labelstudio.config import Targets
from av2t_core.labelstudio.polygons import filled
from av2t_core.limits import ANNOTATION_PIXELS, PICTURE_PIXELS, POLYGON_POINTS

Size = tuple[int, int]
"""Height and width."""

ORIGINS = ("prediction", "prediction-changed", "manual")
"""Left as it was predicted, changed by a person, drawn by a person."""

_PNG = "data:image/png;base64,"
_PNG_HEAD = struct.Struct(">8s4x4sII")  # signature, length of the first chunk, its name, width, height


class AnnotationError(AV2TError):
    """The annotation cannot be learnt from as it is; the message names the region."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Thing:
    """What one region says: that this sounds at a keyframe."""

    page: int  # 0-based, = the keyframe's index
    labels: tuple[str, ...]
    origin: str  # one of ORIGINS
    size: Size
    bits: NDArray[np.uint8]  # of the mask, eight pixels a byte: a clip's masks as booleans are hundreds of megabytes

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W), never empty."""
        height, width = self.size
        return np.unpackbits(self.bits, count=height * width).reshape(self.size).view(np.bool_)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What a person says of a clip.

    `masks`: page → (H, W), all that sounds there; a page that is not in it is one where nothing sounds. `things`: what
    they are of. `origins`: how many regions there are of each of ORIGINS.
    """

    masks: Mapping[int, NDArray[np.bool_]]
    things: tuple[Thing, ...]
    origins: Mapping[str, int]


class _Masks(Mapping[int, NDArray[np.bool_]]):
    """Of all things of a page, put together when they are asked for."""

    def __init__(self, things: Sequence[Thing]) -> None:
        self._pages: dict[int, list[Thing]] = {}
        for thing in things:
            self._pages.setdefault(thing.page, []).append(thing)

    def __getitem__(self, page: int) -> NDArray[np.bool_]:
        first, *others = self._pages[page]
        mask = first.mask
        for thing in others:  # one unpacked at a time
            mask |= thing.mask
        return mask

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._pages))

    def __len__(self) -> int:
        return len(self._pages)


def can_hold_masks(targets: Targets, *, boxes: bool = False) -> bool:
    """Whether annotations of this project can say where something sounds."""
    tags = {control.tag for control in targets.controls}
    return bool(tags & ({"BrushLabels", "BitmaskLabels", "PolygonLabels"} | ({"RectangleLabels"} if boxes else set())))


def count_origins(targets: Targets, result: Sequence[Any]) -> dict[str, int]:
    """How many of an annotation's regions on the frames there are of each of ORIGINS; none is decoded."""
    counts = dict.fromkeys(ORIGINS, 0)
    for _, region in _regions(targets, result):
        counts[_origin(region)] += 1
    return counts


def read_annotation(
    targets: Targets, result: Sequence[Any], *, shape: Size, pages: int, boxes: bool = False
) -> Labelled:
    """What the `result` of an annotation says of a clip with frames of `shape` and so many keyframes.

    Every mask counts that is drawn on the frames, with whichever control; one of another size than `shape` is resized.
    What the Video's own controls and other tags hold is no mask and is passed over. A rectangle that a mask lies in
    says nothing more. Any other counts as a mask of its whole area with `boxes`; without, AnnotationError is raised,
    for that something sounds there and its mask is not known. So it is for whatever else cannot be read exactly.
    """
    regions = list(_regions(targets, result))
    if len(regions) * shape[0] * shape[1] > ANNOTATION_PIXELS:
        raise AnnotationError(
            f"The annotation has {len(regions):,} regions on frames of {shape[1]} x {shape[0]} pixels, and masks of"
            f" {ANNOTATION_PIXELS:,} pixels in all can be learnt from: delete some of them."
        )
    found = [(kind, _thing(region, kind, shape, pages)) for kind, region in regions]
    things = [thing for kind, (_, thing) in found if kind != "rectangle" and thing.bits.any()]
    masks = _Masks(things)
    for kind, (name, thing) in found:
        if kind != "rectangle" or not thing.bits.any():
            continue
        if thing.page in masks and (masks[thing.page] & thing.mask).any():
            continue
        if not boxes:
            raise AnnotationError(
                f"{name} is a rectangle without a mask in it: draw what sounds there, or delete the rectangle",
                Remedy.MASK_BOXES,
            )
        things.append(thing)
    return Labelled(masks=_Masks(things), things=tuple(things), origins=count_origins(targets, result))


def _regions(targets: Targets, result: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Those drawn on the frames, each with its kind, one of _KINDS."""
    images = {control.to_name for control in targets.controls if control.frames is not None}
    rectangles = {control.name for control in targets.controls if control.tag == "RectangleLabels"}
    for region in result:
        if not isinstance(region, Mapping):
            raise AnnotationError(f"The annotation holds {str(region)[:40]!r}, which is no region; make it again.")
        # A region that has lost its label is of the plain type.
        kind = str(region.get("type")).removesuffix("labels")
        if kind not in _KINDS or region.get("to_name") not in images:
            continue
        # Masks are drawn with any control, for only the first of a config's is predicted into. Rectangles of another
        # one may mean anything.
        if kind != "rectangle" or region.get("from_name") in rectangles:
            yield kind, region


def _origin(region: Mapping[str, Any]) -> str:
    """Regions that a program has made have none."""
    origin = str(region.get("origin"))
    return origin if origin in ORIGINS else "manual"


def _thing(region: Mapping[str, Any], kind: str, shape: Size, pages: int) -> tuple[str, Thing]:
    """How messages call the region, and what it says; its mask may be empty."""
    name = f'Region "{region.get("id")}"'
    try:
        page = _page(region, pages)
        name = f"{name} on page {page + 1}"
        if region.get("image_rotation") not in (None, 0):
            raise ValueError(f"its picture is turned by {region['image_rotation']} degrees")
        value = region.get("value")
        if not isinstance(value, Mapping):
            raise ValueError("it has no value")
        labels = value.get(str(region["type"]))
        mask = _KINDS[kind](region, value, shape)
    except ValueError as error:
        raise AnnotationError(f"{name} cannot be used, {error}; delete it and draw it again.") from None
    if mask.shape != shape:
        mask = cv2.resize(mask.view(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT).view(np.bool_)
    return name, Thing(
        page=page,
        labels=tuple(map(str, labels)) if isinstance(labels, list) else (),
        origin=_origin(region),
        size=shape,
        bits=np.packbits(mask),
    )


def _page(region: Mapping[str, Any], pages: int) -> int:
    page = region.get("item_index")
    if page is None:
        if pages != 1:
            raise ValueError(f"it does not say on which of {pages} pages it is (item_index)")
        return 0
    if type(page) is not int or not 0 <= page < pages:
        raise ValueError(f"its item_index is {page!r}, and the clip has {pages} keyframes")
    return page


def _size(region: Mapping[str, Any]) -> Size:
    """Of the picture that it was drawn on."""
    height, width = region.get("original_height"), region.get("original_width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width > PICTURE_PIXELS:
        raise ValueError(f"its picture's size is given as {width!r} by {height!r}")
    return height, width


# Each takes the region, its value and the clip's size, and returns a mask of the clip's or of the picture's size.
# ValueError: what is wrong with it.


def _brush(region: Mapping[str, Any], value: Mapping[str, Any], shape: Size) -> NDArray[np.bool_]:
    if value.get("format") != "rle":
        raise ValueError(f"its format is {value.get('format')!r} and not rle")
    return rle.decode(value.get("rle"), _size(region))


def _bitmask(region: Mapping[str, Any], value: Mapping[str, Any], shape: Size) -> NDArray[np.bool_]:
    url = value.get("imageDataURL")
    if not isinstance(url, str) or not url.startswith(_PNG):
        raise ValueError("it has no PNG")
    try:
        png = base64.b64decode(url.removeprefix(_PNG), validate=True)
        signature, chunk, width, height = _PNG_HEAD.unpack_from(png)
    except (binascii.Error, struct.error):
        raise ValueError("its PNG is damaged") from None
    if signature != b"\x89PNG\r\n\x1a\n" or chunk != b"IHDR":
        raise ValueError("its PNG is damaged")
    # Before a picture is unpacked that may be of any size.
    if (height, width) != _size(region):
        raise ValueError(
            f"its PNG is {width}x{height}, and its picture {region['original_width']}x{region['original_height']}"
        )
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.verify()  # its checksums, which loading does not look at
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            transparent = image.has_transparency_data
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except (OSError, SyntaxError, ValueError, zlib.error, struct.error):
        raise ValueError("its PNG is damaged") from None
    if not transparent:
        raise ValueError("its PNG has no alpha, which is where the mask is")
    return alpha > rle.OPAQUE


def _polygon(region: Mapping[str, Any], value: Mapping[str, Any], shape: Size) -> NDArray[np.bool_]:
    if value.get("closed") is False:
        raise ValueError("it is not closed")
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3 or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise ValueError("it has no points that make a polygon")
    if len(points) > POLYGON_POINTS:
        raise ValueError(f"it has {len(points):,} points, and at most {POLYGON_POINTS:,} can be used")
    return filled(_numbers(points) / 100 * shape[::-1], shape)


def _rectangle(region: Mapping[str, Any], value: Mapping[str, Any], shape: Size) -> NDArray[np.bool_]:
    numbers = _numbers([[value.get(name)] for name in ("x", "y", "width", "height")] + [[value.get("rotation", 0)]])
    x, y, width, height = numbers[:4, 0] / 100
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    if angle := np.deg2rad(numbers[4, 0]):
        # Around the first corner, clockwise, in the pixels of its picture.
        scale = np.array(_size(region)[::-1])
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        corners = corners * scale @ turn / scale
    return filled((corners + np.array([x, y])) * shape[::-1], shape)


def _numbers(rows: Sequence[Sequence[object]]) -> NDArray[np.float64]:
    for each in (each for row in rows for each in row):
        if isinstance(each, bool) or not isinstance(each, int | float) or not abs(each) <= 1000:  # NaN is not
            raise ValueError(f"one of its numbers is {each!r}")
    return np.array(rows, np.float64)


_KINDS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], Size], NDArray[np.bool_]]] = {
    "brush": _brush,
    "bitmask": _bitmask,
    "polygon": _polygon,
    "rectangle": _rectangle,
}
