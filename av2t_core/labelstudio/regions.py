"""What sounds at keyframes → the regions of a prediction."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from av2t_core.labelstudio.config import Targets
from av2t_core.labelstudio.controls import IMAGE_CONTROLS, VIDEO_CONTROLS
from av2t_core.labelstudio.labels import Choice, choose_label
from av2t_core.labelstudio.tracks import Clock, Sighting

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
        if control.frames is None:
            continue
        kind = IMAGE_CONTROLS[control.tag]
        number = 0
        for thing in objects:
            if not thing.mask.any():
                continue
            label = choose_label(thing.label, control.labels)
            height, width = thing.mask.shape
            for value in kind.values(thing.mask):
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
                        "value": {**value, kind.type: [label.name]},
                        "meta": _meta(f"{time:.2f} s", label),
                    }
                )
                number += 1
    return regions


def clip_regions(
    targets: Targets,
    *,
    task: int,
    model_version: str,
    clock: Clock,
    size: tuple[int, int],
    sightings: Sequence[tuple[str | None, Sighting]],
) -> list[Region]:
    """The regions on the Video itself.

    `sightings`: what the model calls each thing, if it can say, in the order of time. `size`: the clip's height and
    width. The same arguments give the same regions, ids included.
    """
    regions = []
    for control in targets.controls:
        if control.frames is not None:
            continue
        kind = VIDEO_CONTROLS[control.tag]
        of_label: dict[Choice, list[Sighting]] = {}
        for detected, sighting in sightings:
            of_label.setdefault(choose_label(detected, control.labels), []).append(sighting)
        found = [
            (label, thing, value) for label, some in of_label.items() for thing, value in kind.values(some, clock, size)
        ]
        for number, (label, thing, value) in enumerate(found):
            score = sum(sighting.score for sighting in thing) / len(thing)
            regions.append(
                {
                    "id": _id(task, model_version, control.name, "clip", number),
                    "from_name": control.name,
                    "to_name": control.to_name,
                    "type": kind.type,
                    "score": round(score, 4) if label.sure else 0.0,
                    "value": {**value, kind.labels: [label.name]},
                    "meta": _meta(_span(thing, clock), label),
                }
            )
    return regions


def _span(thing: Sequence[Sighting], clock: Clock) -> str:
    start, end = thing[0].window * clock.step, (thing[-1].window + 1) * clock.step
    return f"from {round(start, 2):g} s to {round(end, 2):g} s"


def _meta(when: str, label: Choice) -> dict[str, list[str]]:
    return {"text": [when + (f", {label.remark}" if label.remark else "")]}


def _id(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:10]
