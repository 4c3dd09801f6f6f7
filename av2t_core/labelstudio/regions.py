"""Masks of keyframes → the regions of a prediction."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from av2t_core.labelstudio.config import Targets
from av2t_core.labelstudio.controls import CONTROLS
from av2t_core.labelstudio.labels import choose_label

Region = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Object:
    """One thing that sounds, in one keyframe."""

    label: str | None  # what the model calls it, if it can say
    score: float  # 0..1
    mask: NDArray[np.bool_]  # (H, W) at the clip's own size


def keyframe_regions(
    targets: Targets, *, task: int, model_version: str, page: int, time: float, objects: Sequence[Object]
) -> list[Region]:
    """The regions of page `page` (0-based, = the keyframe's index) of the frames; an empty mask gives none.

    `time` (seconds) is shown beside each region. The same arguments give the same regions, ids included.
    """
    regions = []
    for control in targets.controls:
        kind = CONTROLS[control.tag]
        for number, thing in enumerate(objects):
            if not thing.mask.any():
                continue
            label = choose_label(thing.label, control.labels)
            height, width = thing.mask.shape
            regions.append(
                {
                    "id": _id(task, model_version, control.name, page, number),
                    "from_name": control.name,
                    "to_name": control.to_name,
                    "type": kind.type,
                    "item_index": page,
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "score": round(float(thing.score), 4) if label.sure else 0.0,
                    "value": {**kind.value(thing.mask), kind.type: [label.name]},
                    "meta": {"text": [f"{time:.2f} s" + (f", {label.remark}" if label.remark else "")]},
                }
            )
    return regions


def _id(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:10]
