"""A control tag costs one file and one line: this one is found, written, checked by the SDK, and read back."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface

from av2t_core.errors import AV2TError, ConfigError
from av2t_core.labelstudio.annotations import can_hold_masks, count_origins, read_annotation
from av2t_core.labelstudio.controls import ImageTag, Mask, Size
from av2t_core.labelstudio.label_config import CONTROLS, parse_label_config
from av2t_core.labelstudio.regions import clip_regions, keyframe_regions
from av2t_core.labelstudio.tracks import Clock
from av2t_core.prediction.objects import Detection

SHAPE = (48, 64)
CONFIG = """<View><Video name="video" value="$video"/>
<EllipseLabels name="round" toName="frames"><Label value="dog"/><Label value="drum"/></EllipseLabels>
<Image name="frames" valueList="$frames"/></View>"""


class EllipseLabels(ImageTag):
    """The upright ellipse in the box around the mask."""

    kind = "ellipse"

    def write(self, mask: Mask) -> list[dict[str, Any]]:
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        across, down = 100 / mask.shape[1], 100 / mask.shape[0]
        middle = {"x": (x + width / 2) * across, "y": (y + height / 2) * down}
        return [{**middle, "radiusX": width / 2 * across, "radiusY": height / 2 * down, "rotation": 0}]

    def read(self, region: Mapping[str, Any], shape: Size) -> Mask:
        value = region["value"]
        if value.get("rotation"):
            raise ValueError("it is turned")
        rows, columns = (np.indices(shape) + 0.5) / np.array(shape)[:, None, None] * 100
        x, y = (columns - value["x"]) / value["radiusX"], (rows - value["y"]) / value["radiusY"]
        return np.asarray(x**2 + y**2 <= 1)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTROLS, "EllipseLabels", EllipseLabels())


def drum() -> Mask:
    rows, columns = np.indices(SHAPE)
    return np.asarray(((rows - 19.5) / 10) ** 2 + ((columns - 29.5) / 15) ** 2 <= 1)


def written(config: str = CONFIG) -> list[dict[str, Any]]:
    targets = parse_label_config(config)
    thing = Detection(names={"drum": 0.9}, score=0.8, mask=drum())
    return [
        *keyframe_regions(targets, task=1, model_version="v", page=2, time=2.9, objects=[thing]),
        *clip_regions(targets, task=1, model_version="v", clock=Clock(rate=25, duration=5), size=SHAPE, sightings=[]),
    ]


def test_without_its_line_a_tag_is_unknown() -> None:
    with pytest.raises(ConfigError, match="none of BrushLabels"):
        parse_label_config(CONFIG)


@pytest.mark.usefixtures("registered")
def test_it_is_found_in_a_label_config() -> None:
    [control] = parse_label_config(CONFIG).controls
    assert (control.tag.name, control.name, control.frames) == ("EllipseLabels", "round", "frames")
    assert [label.name for label in control.labels] == ["dog", "drum"]
    with pytest.raises(ConfigError, match='EllipseLabels "round" points at "frames", and there is no Image'):
        parse_label_config(CONFIG.replace('Image name="frames"', 'Image name="other"'))


@pytest.mark.usefixtures("registered")
def test_a_prediction_has_its_regions() -> None:
    [region] = written()
    assert (region["type"], region["item_index"], region["value"]["ellipselabels"]) == ("ellipselabels", 2, ["drum"])
    prediction = {"model_version": "v", "score": 0.8, "result": [region]}
    assert LabelInterface(CONFIG).validate_prediction(prediction, return_errors=True) == []


@pytest.mark.usefixtures("registered")
def test_an_annotation_of_it_is_read() -> None:
    targets = parse_label_config(CONFIG)
    assert can_hold_masks(targets)
    result = [{**region, "origin": "prediction-changed"} for region in written()]
    masks = read_annotation(targets, result, shape=SHAPE, pages=5)
    [each] = masks.objects
    assert (each.page, each.labels) == (2, ("drum",))
    assert (each.mask == drum()).all()
    assert count_origins(targets, result) == {"prediction": 0, "prediction-changed": 1, "manual": 0}
    result[0]["value"]["rotation"] = 30
    with pytest.raises(AV2TError, match="on page 3 cannot be used, it is turned; delete it"):
        read_annotation(targets, result, shape=SHAPE, pages=5)


@pytest.mark.usefixtures("registered")
def test_it_stands_beside_the_others() -> None:
    brush = '<BrushLabels name="mask" toName="frames"><Label value="drum"/></BrushLabels><Image'
    regions = written(CONFIG.replace("<Image", brush))
    assert [(region["from_name"], region["type"]) for region in regions] == [
        ("round", "ellipselabels"),
        ("mask", "brushlabels"),
    ]
