"""The regions of an annotation → what sounds at each keyframe, as masks: `regions` the other way round.

An annotation speaks of all keyframes of its clip: at one where it has no mask nothing sounds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from av2t_core.errors import AV2TError, Remedy
from av2t_core.labelstudio.config import CONTROLS, Targets
from av2t_core.labelstudio.controls import ImageTag, Size
from av2t_core.limits import ANNOTATION_PIXELS

ORIGINS = ("prediction", "prediction-changed", "manual")
"""Left as it was predicted, changed by a person, drawn by a person."""


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


def image_tags() -> list[ImageTag]:
    """With which something can be drawn on the frames."""
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
    found = [(tag, *_thing(region, tag, shape, pages)) for tag, region in regions]
    found = [(tag, name, thing) for tag, name, thing in found if thing.bits.any()]
    things = [thing for tag, _, thing in found if tag.holds_masks]
    masks = _Masks(things)
    for tag, name, thing in found:
        if tag.holds_masks or (thing.page in masks and (masks[thing.page] & thing.mask).any()):
            continue
        if not boxes:
            raise AnnotationError(
                f"{name} is a {tag.unlabelled_type} without a mask in it: draw what sounds there, or delete the"
                f" {tag.unlabelled_type}",
                Remedy.MASK_BOXES,
            )
        things.append(thing)
    return Labelled(masks=_Masks(things), things=tuple(things), origins=count_origins(targets, result))


def _regions(targets: Targets, result: Sequence[Any]) -> Iterator[tuple[ImageTag, Mapping[str, Any]]]:
    """Those drawn on the frames, each with its tag."""
    tags = {tag.unlabelled_type: tag for tag in image_tags()}
    images = {control.to_name for control in targets.controls if isinstance(control.tag, ImageTag)}
    controls = {(control.tag.name, control.name) for control in targets.controls}
    for region in result:
        if not isinstance(region, Mapping):
            raise AnnotationError(f"The annotation holds {str(region)[:40]!r}, which is no region; make it again.")
        tag = tags.get(str(region.get("type")).removesuffix("labels"))
        if tag is None or region.get("to_name") not in images:
            continue
        # Masks are drawn with any control, for only the first of a config's is predicted into. Boxes of another one
        # may mean anything.
        if tag.holds_masks or (tag.name, region.get("from_name")) in controls:
            yield tag, region


def _origin(region: Mapping[str, Any]) -> str:
    """Regions that a program has made have none."""
    origin = str(region.get("origin"))
    return origin if origin in ORIGINS else "manual"


def _thing(region: Mapping[str, Any], tag: ImageTag, shape: Size, pages: int) -> tuple[str, Thing]:
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
        mask = tag.read(region, shape)
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
