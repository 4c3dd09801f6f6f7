"""What a control tag is. Each has a file here and a line in `label_config.CONTROLS`, or in `label_config.READ_ONLY`.

The backend reads label configs as well and must start quickly: what needs numpy and the like is imported where it is
used, here and in `tracks`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from av2t_core.labelstudio.tracks import Clock, Sighting
from av2t_core.limits import PICTURE_PIXELS
from av2t_core.prediction import Box

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Mask: TypeAlias = "NDArray[np.bool_]"  # (H, W)
Size = tuple[int, int]  # height and width in pixels
Region = Mapping[str, Any]
Value = dict[str, Any]
Seen = tuple[Sequence[Sighting], Value]


class ControlTag(ABC):
    """What a control tag asks of the label config, and what its regions are called. The class has the tag's name."""

    object_tag: ClassVar[str]  # the tag that it draws on
    frames_attribute: ClassVar[str | None] = None  # by which that tag reads the keyframes' URLs, if it shows those
    kind: ClassVar[str]  # what its regions say; of the controls of one kind, a label config's first is predicted into
    labels_beside: ClassVar[bool] = False  # whether its labels are in a <Labels> for the same object tag, not inside it

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def region_type(self) -> str:
        return self.name.lower()

    @property
    def labels_key(self) -> str:
        """The key of a region's labels in its `value`."""
        return "labels" if self.labels_beside else self.region_type


class DrawnTag(ControlTag):
    """A control tag of an Image that shows the keyframes, one a page. What is drawn with it is read."""

    object_tag = "Image"
    frames_attribute = "valueList"

    holds_masks: ClassVar[bool] = True  # if not, as for boxes, its regions say only that something sounds within
    has_area: ClassVar[bool] = True  # if not, as for points, nothing of it can count as a mask
    erasable: ClassVar[bool] = False  # whether a region may be left of which a person has rubbed out all

    @property
    def unlabelled_type(self) -> str:
        """Of its regions that have lost their labels."""
        return self.region_type.removesuffix("labels")

    @abstractmethod
    def read(self, region: Region, shape: Size) -> Mask:
        """The mask of a region whose `value` is a mapping. ValueError: what is wrong with the region.

        `shape` is the size of the clip's frames. The mask may have that size, or that of the picture it was drawn on.
        """


class ImageTag(DrawnTag):
    """One that is predicted into, too."""

    @abstractmethod
    def write(self, mask: Mask) -> list[Value]:
        """The `value` of each region, without its labels, for a mask of the image's size that is not empty."""


class VideoTag(ControlTag):
    """A control tag of the Video. Its regions are written only: an annotation is read from the keyframes."""

    object_tag = "Video"

    @abstractmethod
    def write(self, sightings: Sequence[Sighting], clock: Clock, size: Size) -> Iterable[Seen]:
        """Of each region its sightings, and its `value` without its labels.

        `sightings`: of all objects with one label, in the order of time. `size`: that of the clip's frames.
        """


def picture_size(region: Region) -> Size:
    """Of the picture that a region was drawn on; ValueError."""
    height, width = region.get("original_height"), region.get("original_width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width > PICTURE_PIXELS:
        raise ValueError(f"its picture's size is given as {width!r} by {height!r}")
    return height, width


def percent(box: Box, size: Size) -> dict[str, float]:
    """A box in pixels as Label Studio has it: in per cent of the frame's sides."""
    height, width = size
    sides = zip(("x", "y", "width", "height"), box, (width, height, width, height), strict=True)
    return {name: round(100 * side / whole, 3) for name, side, whole in sides}
