"""What sounds at keyframes → the regions of a prediction."""

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from av2t_core.labelstudio.config import Label, Targets
from av2t_core.labelstudio.controls import IMAGE_CONTROLS, VIDEO_CONTROLS
from av2t_core.labelstudio.tracks import Clock, Sighting
from av2t_core.prediction.objects import Detection

Region = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Choice:
    name: str  # one of the project's labels
    sure: bool = True  # False: a label had to be given, and this one says nothing about the thing
    remark: str | None = None


def choose_label(detected: Sequence[str], labels: Sequence[Label]) -> Choice:
    """The first of the names that is a label's own or one of its `predicted_values`, both without regard to case.

    If none is, the only label there is, else the first of them. `labels` is never empty, and no other label is ever
    returned. `detected`: what the thing may be called, the likeliest first.
    """
    for wanted in (name.strip().casefold() for name in detected):
        for label in labels:
            if label.name.strip().casefold() == wanted:
                return Choice(name=label.name)
        for label in labels:
            if wanted in (value.casefold() for value in label.predicted_values):
                return Choice(name=label.name)
    if len(labels) == 1:
        return Choice(name=labels[0].name)
    if not detected:
        return Choice(name=labels[0].name, sure=False, remark="label not known")
    return Choice(name=labels[0].name, sure=False, remark=f'heard "{detected[0]}", which is none of the labels')


def keyframe_regions(
    targets: Targets, *, task: int, model_version: str, page: int, time: float, objects: Sequence[Detection]
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
            label = choose_label(tuple(thing.names), control.labels)
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
                        "meta": _meta(f"{time:.2f} s", {thing.number}, label),
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
    sightings: Sequence[Sighting],
) -> list[Region]:
    """The regions on the Video itself.

    `sightings`: in the order of time. `size`: the clip's height and width. The same arguments give the same regions,
    ids included.
    """
    regions = []
    for control in targets.controls:
        if control.frames is not None:
            continue
        kind = VIDEO_CONTROLS[control.tag]
        of_label: dict[Choice, list[Sighting]] = {}
        for sighting in sightings:
            of_label.setdefault(choose_label(sighting.names, control.labels), []).append(sighting)
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
                    "meta": _meta(_span(thing, clock), {sighting.number for sighting in thing}, label),
                }
            )
    return regions


def _span(thing: Sequence[Sighting], clock: Clock) -> str:
    start, end = thing[0].window * clock.step, (thing[-1].window + 1) * clock.step
    return f"from {round(start, 2):g} s to {round(end, 2):g} s"


def _meta(when: str, numbers: Set[int], label: Choice) -> dict[str, list[str]]:
    """What the page shows of a region beside its label."""
    which = f"object{'s' if len(numbers) > 1 else ''} {' and '.join(map(str, sorted(numbers)))}"
    return {"text": [", ".join([when, which, *([label.remark] if label.remark else [])])]}


def _id(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:10]
