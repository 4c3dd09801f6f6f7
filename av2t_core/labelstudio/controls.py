"""One class for each control tag: how a mask is written as the value of its regions."""

import base64
import io
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from av2t_core.labelstudio import rle


class MaskControl(Protocol):
    """A control tag of an Image whose regions hold one mask each."""

    type: str
    """Of its regions, and the key under which `value` holds their labels."""

    def value(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """The region's `value` without its labels, for a mask (H, W) at the image's own resolution, not empty."""
        ...


class BrushLabels:
    type = "brushlabels"

    def value(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        return {"format": "rle", "rle": rle.encode(mask)}


class BitmaskLabels:
    type = "bitmasklabels"

    def value(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """A PNG: black and opaque where the mask is, transparent elsewhere."""
        rgba = np.zeros((*mask.shape, 4), np.uint8)
        rgba[mask, 3] = 255
        png = io.BytesIO()
        Image.fromarray(rgba).save(png, "PNG")
        return {"imageDataURL": f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"}


CONTROLS: dict[str, MaskControl] = {"BrushLabels": BrushLabels(), "BitmaskLabels": BitmaskLabels()}
