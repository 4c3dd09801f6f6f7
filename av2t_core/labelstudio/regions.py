"""What sounds at keyframes → the regions of a prediction."""

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from av2t_core.labelstudio.controls import ImageTag, Size, Value, VideoTag
from av2t_core.labelstudio.label_config import Control, Label, Targets
from av2t_core.labelstudio.tracks import Clock, Sighting
from av2t_core.prediction.objects import Detection

Region = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Choice:
    name: str  # one of the project's labels
    remark: str | None = None  # where a label had to be given, and this one says nothing about the object


def choose_label(detected: Sequence[str], labels: Sequence[Label]) -> Choice | None:
    """The first of the names that is a label's own or one of its `predicted_values`, both without regard to case.

    If none is, None, for the project has no label for the object; but a single label is for everything, and what has no
    name gets the first. `labels` is never empty. `detected`: what the object may be called, likeliest first.
    """
    for wanted in (name.strip().casefold() for name in detected):
        own = [label for label in labels if label.name.strip().casefold() == wanted]
        given = [label for label in labels if wanted in map(str.casefold, label.predicted_values)]
        if own or given:
            return Choice(name=(own or given)[0].name)
    if len(labels) == 1:
        return Choice(name=labels[0].name)
    return None if detected else Choice(name=labels[0].name, remark="label not known")


def keyframe_regions(
    targets: Targets, *, task: int, model_version: str, page: int, time: float, objects: Sequence[Detection]
) -> list[Region]:
    """The regions of page `page` (0-based, = the keyframe's index) of the frames; an empty mask gives none.

    `time` (seconds) is shown beside each region. The same arguments give the same ids.
    """
    regions = []
    for control in targets.controls:
        if not isinstance(control.tag, ImageTag):
            continue
        written = [
            (each, label, value)
            for each in objects
            if each.mask.any() and (label := choose_label(tuple(each.names), control.labels))
            for value in control.tag.write(each.mask)
        ]
        for number, (each, label, value) in enumerate(written):
            height, width = each.mask.shape
            place = {"item_index": page, "original_width": width, "original_height": height, "image_rotation": 0}
            identity = (task, model_version, control.name, page, number)
            regions.append(_region(control, identity, label, each.score, value, f"{time:.2f} s", {each.number}) | place)
    return regions


def clip_regions(
    targets: Targets, *, task: int, model_version: str, clock: Clock, size: Size, sightings: Sequence[Sighting]
) -> list[Region]:
    """The regions on the Video itself. `sightings`: in the order of time. `size`: that of the clip's frames."""
    regions = []
    for control in targets.controls:
        if not isinstance(control.tag, VideoTag):
            continue
        by_label: dict[Choice, list[Sighting]] = {}
        for sighting in sightings:
            if label := choose_label(sighting.names, control.labels):
                by_label.setdefault(label, []).append(sighting)
        written = ((label, *pair) for label, some in by_label.items() for pair in control.tag.write(some, clock, size))
        for number, (label, seen, value) in enumerate(written):
            start, end = seen[0].window * clock.step, (seen[-1].window + 1) * clock.step
            when = f"from {round(start, 2):g} s to {round(end, 2):g} s"
            identity = (task, model_version, control.name, "clip", number)
            score, numbers = fmean(sighting.score for sighting in seen), {sighting.number for sighting in seen}
            regions.append(_region(control, identity, label, score, value, when, numbers))
    return regions


def _region(
    control: Control, identity: tuple[object, ...], label: Choice, score: float, value: Value, when: str, of: Set[int]
) -> Region:
    objects = f"object{'s' if len(of) > 1 else ''} {' and '.join(map(str, sorted(of)))}"
    return {
        "id": hashlib.sha256("/".join(map(str, identity)).encode()).hexdigest()[:10],
        "from_name": control.name,
        "to_name": control.to_name,
        "type": control.tag.region_type,
        "score": 0.0 if label.remark else round(float(score), 4),
        "value": {**value, control.tag.labels_key: [label.name]},
        "meta": {"text": [", ".join(filter(None, [when, objects, label.remark]))]},  # shown beside the label
    }
