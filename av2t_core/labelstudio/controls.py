"""One class for each control tag: how what sounds is written as the values of its regions."""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from av2t_core.labelstudio import rle
from av2t_core.labelstudio.polygons import polygons
from av2t_core.labelstudio.tracks import Clock, Sighting, marks, runs
from av2t_core.prediction.objects import Box


class ImageControl(Protocol):
    """A control tag of an Image."""

    type: str
    """Of its regions, and the key under which `value` holds their labels."""

    def values(self, mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Each region's `value` without its labels, for a mask (H, W) at the image's own resolution, not empty."""
        ...


class BrushLabels:
    type = "brushlabels"

    def values(self, mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
        return [{"format": "rle", "rle": rle.encode(mask)}]


class BitmaskLabels:
    type = "bitmasklabels"

    def values(self, mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """A PNG: black and opaque where the mask is, transparent elsewhere."""
        rgba = np.zeros((*mask.shape, 4), np.uint8)
        rgba[mask, 3] = 255
        png = io.BytesIO()
        Image.fromarray(rgba).save(png, "PNG")
        return [{"imageDataURL": f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"}]


class PolygonLabels:
    type = "polygonlabels"

    def values(self, mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """One polygon for each part of the mask; per cent of the picture's sides."""
        scale = 100 / np.array(mask.shape[::-1])
        return [{"points": np.round(ring * scale, 3).tolist(), "closed": True} for ring in polygons(mask)]


class RectangleLabels:
    type = "rectanglelabels"

    def values(self, mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """The box around the mask; per cent of the picture's sides."""
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        return [{**_percent((x, y, width, height), mask.shape), "rotation": 0}]


class VideoControl(Protocol):
    """A control tag of a Video."""

    type: str
    """Of its regions."""

    labels: str
    """The key under which `value` holds a region's labels."""

    def values(
        self, sightings: Sequence[Sighting], clock: Clock, size: tuple[int, int]
    ) -> Iterator[tuple[Sequence[Sighting], dict[str, Any]]]:
        """Each region's sightings, and its `value` without its labels.

        `sightings`: of all that has one label, in the order of time. `size`: height and width of the frames.
        """
        ...


class VideoRectangle:
    type = "videorectangle"
    labels = "labels"

    def values(
        self, sightings: Sequence[Sighting], clock: Clock, size: tuple[int, int]
    ) -> Iterator[tuple[Sequence[Sighting], dict[str, Any]]]:
        """One track for each thing."""
        things: dict[int, list[Sighting]] = {}
        for sighting in sightings:
            things.setdefault(sighting.number, []).append(sighting)
        for thing in things.values():
            yield (
                thing,
                {
                    "framesCount": clock.count,
                    "duration": clock.duration,
                    "sequence": [
                        {
                            "frame": mark.frame,
                            "time": round(mark.frame / clock.rate, 3),
                            "enabled": not mark.last,
                            "rotation": 0,
                            **_percent(mark.box, size),
                        }
                        for mark in marks(thing, clock)
                    ],
                },
            )


class TimelineLabels:
    type = labels = "timelinelabels"

    def values(
        self, sightings: Sequence[Sighting], clock: Clock, size: tuple[int, int]
    ) -> Iterator[tuple[Sequence[Sighting], dict[str, Any]]]:
        """One range for each time that something of this label sounds."""
        for run in runs(sightings):
            start, end = clock.window(run[0].window, run[-1].window)
            yield run, {"ranges": [{"start": start, "end": end}]}


def _percent(box: Box, size: tuple[int, int]) -> dict[str, float]:
    height, width = size
    sides = zip(("x", "y", "width", "height"), box, (width, height, width, height), strict=True)
    return {name: round(100 * side / whole, 3) for name, side, whole in sides}


IMAGE_CONTROLS: dict[str, ImageControl] = {
    "BrushLabels": BrushLabels(),
    "BitmaskLabels": BitmaskLabels(),
    "PolygonLabels": PolygonLabels(),
    "RectangleLabels": RectangleLabels(),
}
VIDEO_CONTROLS: dict[str, VideoControl] = {"VideoRectangle": VideoRectangle(), "TimelineLabels": TimelineLabels()}
