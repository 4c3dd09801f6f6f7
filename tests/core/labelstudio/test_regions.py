import base64
import io
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from av2t_core.labelstudio.config import MASK_TAGS, parse_label_config
from av2t_core.labelstudio.controls import CONTROLS
from av2t_core.labelstudio.regions import Object, keyframe_regions

CONFIG = """<View><Video name="video" value="$video"/>
<{tag} name="mask" toName="frames"><Label value="dog"/><Label value="guitar"/></{tag}>
<Image name="frames" valueList="$frames"/></View>"""


def mask() -> np.ndarray[Any, np.dtype[np.bool_]]:
    full = np.zeros((24, 32), bool)
    full[3:9, 5:20] = True
    return full


def regions(tag: str = "BrushLabels", *, task: int = 7, version: str = "tiny-1", page: int = 2) -> list[dict[str, Any]]:
    objects = (
        Object(label="Guitar", score=0.91237, mask=mask()),
        Object(label="dog", score=0.8, mask=np.zeros((24, 32), bool)),
        Object(label="tram", score=0.7, mask=~mask()),
    )
    targets = parse_label_config(CONFIG.format(tag=tag))
    return keyframe_regions(targets, task=task, model_version=version, page=page, time=2.9375, objects=objects)


def test_every_mask_tag_of_the_config_has_its_class() -> None:
    assert tuple(CONTROLS) == MASK_TAGS


def test_a_region() -> None:
    first, second = regions()
    rle = first["value"].pop("rle")
    assert (decode_rle(rle).reshape(24, 32, 4)[..., 3] == np.where(mask(), 255, 0)).all()
    assert first == {
        "id": first["id"],
        "from_name": "mask",
        "to_name": "frames",
        "type": "brushlabels",
        "item_index": 2,
        "original_width": 32,
        "original_height": 24,
        "image_rotation": 0,
        "score": 0.9124,
        "value": {"format": "rle", "brushlabels": ["guitar"]},
        "meta": {"text": ["2.94 s"]},
    }
    assert second["value"]["brushlabels"] == ["dog"]
    assert second["score"] == 0
    assert second["meta"]["text"] == ['2.94 s, heard "tram", which is none of the labels']


def test_bitmask() -> None:
    url = regions("BitmaskLabels")[0]["value"]["imageDataURL"]
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) as image:
        rgba = np.asarray(image)
    assert (rgba[..., 3] == np.where(mask(), 255, 0)).all()
    assert not rgba[..., :3].any()


@pytest.mark.parametrize("tag", MASK_TAGS)
def test_the_sdk_finds_nothing_wrong(tag: str) -> None:
    prediction = {"model_version": "tiny-1", "score": 0.9, "result": regions(tag)}
    assert LabelInterface(CONFIG.format(tag=tag)).validate_prediction(prediction, return_errors=True) == []


def test_ids_are_the_same_each_time_and_differ_between_regions() -> None:
    assert [region["id"] for region in regions()] == [region["id"] for region in regions()]
    ids = [
        region["id"]
        for different in (regions(), regions(task=8), regions(version="v2"), regions(page=3))
        for region in different
    ]
    assert len(set(ids)) == len(ids) == 8
