"""The regions of an annotation → what sounds at each keyframe, as masks: `regions` the other way round.

An annotation speaks of all keyframes of its clip: at one where it has no mask nothing sounds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from av2t_core.errors import AV2TError, Remedy
from av2t_core.labelstudio.controls import DrawnTag, ImageTag, Mask, Region, Size
from av2t_core.labelstudio.label_config import CONTROLS, READ_ONLY, Targets
from av2t_core.limits import ANNOTATION_PIXELS

ORIGINS = ("prediction", "prediction-changed", "manual")
"""Left as it was predicted, changed by a person, drawn by a person."""


class AnnotationError(AV2TError):
    """The annotation cannot be learnt from as it is; the message names the region."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedObject:
    """What one region says: that this sounds at a keyframe."""

    page: int  # 0-based, = the keyframe's index
    labels: tuple[str, ...]
    size: Size
    bits: NDArray[np.uint8]  # of the mask, eight pixels a byte: a clip's masks as booleans are hundreds of megabytes
    origin: str  # one of ORIGINS

    @property
    def mask(self) -> Mask:
        """(H, W), never empty."""
        height, width = self.size
        return np.unpackbits(self.bits, count=height * width).reshape(self.size).view(np.bool_)


class ClipMasks(Mapping[int, Mask]):
    """What a person says of a clip: by page all that sounds there, (H, W). On any other page nothing sounds."""

    def __init__(self, objects: Sequence[AnnotatedObject]) -> None:
        self.objects = tuple(objects)
        self.by_page: dict[int, list[AnnotatedObject]] = {}
        for each in objects:
            self.by_page.setdefault(each.page, []).append(each)

    @property
    def accepted(self) -> set[int]:
        """The pages whose masks are all as they were predicted."""
        return {page for page, objects in self.by_page.items() if all(each.origin == ORIGINS[0] for each in objects)}

    def __getitem__(self, page: int) -> Mask:
        return reduce(np.bitwise_or, (each.mask for each in self.by_page[page]))  # one unpacked at a time

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self.by_page))

    def __len__(self) -> int:
        return len(self.by_page)


def image_tags() -> list[ImageTag]:
    """Of the frames, which are predicted into."""
    return [tag for tag in CONTROLS.values() if isinstance(tag, ImageTag)]


def can_hold_masks(targets: Targets, *, boxes: bool = False) -> bool:
    """Whether annotations of this project can say where something sounds."""
    tags = [control.tag for control in targets.controls]
    return any(isinstance(tag, ImageTag) and (tag.holds_masks or boxes) for tag in tags)


def count_origins(targets: Targets, result: Sequence[Any]) -> dict[str, int]:
    """How many of an annotation's regions on the frames there are of each of ORIGINS; none is decoded."""
    counts = dict.fromkeys(ORIGINS, 0)
    for _, region in _regions(targets, result):
        counts[_origin(region)] += 1
    return counts


def _origin(region: Region) -> str:
    origin = region.get("origin")
    return origin if origin in ORIGINS else "manual"  # regions that a program has made have none


def read_annotation(
    targets: Targets, result: Sequence[Any], *, shape: Size, pages: int, boxes: bool = False
) -> ClipMasks:
    """What the `result` of an annotation says of a clip with frames of `shape` and so many keyframes.

    Every mask that is drawn on the frames counts, with whichever control; one of another size than `shape` is resized.
    Controls of the Video and other tags hold no masks and are passed over, as are those with predict="false". A box or
    a point that a mask lies in says nothing more. Any other box counts as a mask of its whole area if `boxes`.
    AnnotationError: a box that does not, a point, or whatever else cannot be read exactly.
    """
    regions = list(_regions(targets, result))
    if len(regions) * shape[0] * shape[1] > ANNOTATION_PIXELS:
        raise AnnotationError(
            f"The annotation has {len(regions):,} regions on frames of {shape[1]} x {shape[0]} pixels, and masks of"
            f" {ANNOTATION_PIXELS:,} pixels in all can be learnt from: delete some of them."
        )
    read = [(tag, *_read(tag, region, shape, pages)) for tag, region in regions]
    objects = [each for tag, _, each in read if tag.holds_masks and each.bits.any()]
    masks = ClipMasks(objects)
    for tag, name, each in read:
        what, drawn = tag.unlabelled_type, each.bits.any()
        if not drawn and not tag.erasable and each.page not in masks:
            raise AnnotationError(f"{name} is a {what} without an area: draw what sounds there, or delete it")
        if tag.holds_masks or not drawn or (each.page in masks and (masks[each.page] & each.mask).any()):
            continue
        if not (boxes and tag.has_area):
            where = "in it" if tag.has_area else "around it"
            sentence = f"{name} is a {what} without a mask {where}: draw what sounds there, or delete the {what}"
            raise AnnotationError(sentence, Remedy.MASK_BOXES if tag.has_area else None)
        objects.append(each)
    return ClipMasks(objects)


def _regions(targets: Targets, result: Sequence[Any]) -> Iterator[tuple[DrawnTag, Region]]:
    """Those drawn on the frames, each with its tag."""
    tags: dict[str, DrawnTag] = {tag.unlabelled_type: tag for tag in (*READ_ONLY, *image_tags())}
    chosen = {control.tag.name: control.name for control in targets.controls}
    for region in result:
        if not isinstance(region, Mapping):
            raise AnnotationError(f"The annotation holds {str(region)[:40]!r}, which is no region; make it again.")
        tag = tags.get(str(region.get("type")).removesuffix("labels"))
        if tag is None or region.get("to_name") not in targets.images or region.get("from_name") in targets.apart:
            continue
        # Masks are drawn with any control, for only the first of a config's is predicted into. Boxes of another one
        # may mean anything.
        if tag.holds_masks or region.get("from_name") == chosen.get(tag.name, region.get("from_name")):
            yield tag, region


def _read(tag: DrawnTag, region: Region, shape: Size, pages: int) -> tuple[str, AnnotatedObject]:
    """How messages call the region, and what it says; its mask may be empty."""
    name = f'Region "{region.get("id")}"'
    try:
        page = region.get("item_index")
        if page is None and pages == 1:
            page = 0
        if page is None:
            raise ValueError(f"it does not say on which of {pages} pages it is (item_index)")
        if type(page) is not int or not 0 <= page < pages:
            raise ValueError(f"its item_index is {page!r}, and the clip has {pages} keyframes")
        name = f"{name} on page {page + 1}"
        if region.get("image_rotation") not in (None, 0):
            raise ValueError(f"its picture is turned by {region['image_rotation']} degrees")
        value = region.get("value")
        if not isinstance(value, Mapping):
            raise ValueError("it has no value")
        labels = value.get(str(region["type"]))
        mask = tag.read(region, shape)
    except ValueError as error:
        raise AnnotationError(f"{name} cannot be used, {error}; delete it and draw it again.") from None
    if mask.shape != shape:
        mask = cv2.resize(mask.view(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT).view(np.bool_)
    names = tuple(map(str, labels)) if isinstance(labels, list) else ()
    return name, AnnotatedObject(page=page, labels=names, size=shape, bits=np.packbits(mask), origin=_origin(region))
