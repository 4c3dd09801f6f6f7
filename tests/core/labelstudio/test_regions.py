import base64
import io
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from av2t_core.labelstudio.annotations import image_tags
from av2t_core.labelstudio.label_config import Label, parse_label_config
from av2t_core.labelstudio.regions import Choice, choose_label, clip_regions, keyframe_regions
from av2t_core.labelstudio.tracks import Clock, Sighting
from av2t_core.prediction.objects import Detection

LABELS = (Label(name="Dog"), Label(name="Geige", predicted_values=("violin", "Fiddle")), Label(name="violin "))
IMAGE_TAGS = [tag.name for tag in image_tags()]
CONFIG = """<View><Video name="video" value="$video"/>
<{tag} name="mask" toName="frames"><Label value="dog"/><Label value="guitar"/></{tag}>
<Image name="frames" valueList="$frames"/></View>"""


def mask() -> np.ndarray[Any, np.dtype[np.bool_]]:
    full = np.zeros((24, 32), bool)
    full[3:9, 5:20] = True
    return full


def regions(tag: str = "BrushLabels", *, task: int = 7, version: str = "tiny-1", page: int = 2) -> list[dict[str, Any]]:
    objects = (
        Detection(names={"Guitar": 0.9}, score=0.91237, mask=mask()),
        Detection(names={"dog": 0.5}, score=0.8, mask=np.zeros((24, 32), bool)),
        Detection(names={}, score=0.7, mask=~mask(), number=3),
    )
    targets = parse_label_config(CONFIG.format(tag=tag))
    return keyframe_regions(targets, task=task, model_version=version, page=page, time=2.9375, objects=objects)


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
        "meta": {"text": ["2.94 s, object 1"]},
    }
    assert second["value"]["brushlabels"] == ["dog"]
    assert second["score"] == 0
    assert second["meta"]["text"] == ["2.94 s, object 3, label not known"]


def test_bitmask() -> None:
    url = regions("BitmaskLabels")[0]["value"]["imageDataURL"]
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) as image:
        rgba = np.asarray(image)
    assert (rgba[..., 3] == np.where(mask(), 255, 0)).all()
    assert not rgba[..., :3].any()


def test_polygon() -> None:
    thing, rest = regions("PolygonLabels")  # the rest is one part with a hole
    assert thing["value"]["polygonlabels"] == ["guitar"]
    assert thing["value"]["closed"]
    points = np.array(thing["value"]["points"])
    assert points.min(axis=0) == pytest.approx([100 * 5.25 / 32, 100 * 3.25 / 24], abs=1e-3)
    assert points.max(axis=0) == pytest.approx([100 * 19.75 / 32, 100 * 8.75 / 24], abs=1e-3)
    assert rest["value"]["polygonlabels"] == ["dog"]


def test_rectangle() -> None:
    thing, rest = regions("RectangleLabels")
    assert thing["value"] == {
        "x": 15.625,
        "y": 12.5,
        "width": 46.875,
        "height": 25.0,
        "rotation": 0,
        "rectanglelabels": ["guitar"],
    }
    assert [rest["value"][side] for side in ("x", "y", "width", "height")] == [0, 0, 100, 100]


def test_all_at_once() -> None:
    controls = "".join(f'<{tag} name="{tag}" toName="frames"><Label value="dog"/></{tag}>' for tag in IMAGE_TAGS)
    config = f'<View><Video name="video" value="$video"/>{controls}<Image name="frames" valueList="$frames"/></View>'
    thing = Detection(names={"dog": 0.9}, score=0.9, mask=mask())
    result = keyframe_regions(
        parse_label_config(config), task=7, model_version="v", page=0, time=0.9375, objects=[thing]
    )
    assert [region["from_name"] for region in result] == ["BrushLabels", "PolygonLabels", "RectangleLabels"]
    assert len({region["id"] for region in result}) == 3
    prediction = {"model_version": "v", "score": 0.9, "result": result}
    assert LabelInterface(config).validate_prediction(prediction, return_errors=True) == []


@pytest.mark.parametrize("tag", IMAGE_TAGS)
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


VIDEO_CONFIG = """<View><Video name="video" value="$video" framerate="25"/>
<Labels name="things" toName="video"><Label value="dog"/><Label value="guitar"/></Labels>
<VideoRectangle name="box" toName="video"/>
<TimelineLabels name="times" toName="video"><Label value="dog"/><Label value="guitar"/></TimelineLabels></View>"""


def on_the_video(*seen: tuple[str | None, int, float], task: int = 7) -> list[dict[str, Any]]:
    """By name, which is that of one thing, window and score."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for name, _, _ in seen), 1)}
    return clip_regions(
        parse_label_config(VIDEO_CONFIG),
        task=task,
        model_version="v",
        clock=Clock(rate=25, duration=5),
        size=(200, 400),
        sightings=[
            Sighting(
                number=numbers[name],
                names=(name,) if name else (),
                window=window,
                time=window + 0.96,
                box=(40, 50, 100, 20),
                score=score,
            )
            for name, window, score in seen
        ],
    )


def test_a_track_and_its_ranges() -> None:
    dog, guitar, first, second, third = on_the_video(
        ("dog", 0, 0.8), ("dog", 1, 0.6), ("guitar", 2, 0.5), ("dog", 3, 0.1)
    )
    box = {"x": 10, "y": 25, "width": 25, "height": 10, "rotation": 0}
    assert dog == {
        "id": dog["id"],
        "from_name": "box",
        "to_name": "video",
        "type": "videorectangle",
        "score": 0.5,
        "value": {
            "framesCount": 125,
            "duration": 5,
            "labels": ["dog"],
            "sequence": [
                {"frame": 1, "time": 0.04, "enabled": True, **box},
                {"frame": 50, "time": 2.0, "enabled": False, **box},
                {"frame": 76, "time": 3.04, "enabled": True, **box},
                {"frame": 100, "time": 4.0, "enabled": False, **box},
            ],
        },
        "meta": {"text": ["from 0 s to 4 s, object 1"]},
    }
    assert guitar["value"]["labels"] == ["guitar"]
    assert first == {
        "id": first["id"],
        "from_name": "times",
        "to_name": "video",
        "type": "timelinelabels",
        "score": 0.7,
        "value": {"ranges": [{"start": 1, "end": 50}], "timelinelabels": ["dog"]},
        "meta": {"text": ["from 0 s to 2 s, object 1"]},
    }
    assert second["value"] == {"ranges": [{"start": 76, "end": 100}], "timelinelabels": ["dog"]}
    assert third["value"] == {"ranges": [{"start": 51, "end": 75}], "timelinelabels": ["guitar"]}


def test_regions_on_the_video_have_lasting_ids_and_please_the_sdk() -> None:
    seen = [("dog", 0, 0.8), ("tram", 2, 0.5), (None, 3, 0.5)]
    result = on_the_video(*seen)
    assert result == on_the_video(*seen)
    assert len({region["id"] for region in [*result, *on_the_video(*seen, task=8)]}) == 2 * len(result)
    assert [region["score"] for region in result if region["meta"]["text"][0].count(",") >= 2] == [0] * 2
    prediction = {"model_version": "v", "score": 0.9, "result": result}
    assert LabelInterface(VIDEO_CONFIG).validate_prediction(prediction, return_errors=True) == []


def test_each_control_has_its_own() -> None:
    targets = parse_label_config(VIDEO_CONFIG)
    thing = Detection(names={"dog": 0.9}, score=0.9, mask=mask())
    assert keyframe_regions(targets, task=7, model_version="v", page=0, time=0.9, objects=[thing]) == []


@pytest.mark.parametrize(
    ("detected", "name"), [("Dog", "Dog"), ("dog", "Dog"), (" DOG ", "Dog"), ("fiddle", "Geige"), ("Violin", "violin ")]
)
def test_a_label_is_chosen_by_name_before_predicted_values(detected: str, name: str) -> None:
    assert choose_label([detected], LABELS) == Choice(name=name)


def test_the_likeliest_label_that_the_project_has_is_chosen() -> None:
    assert choose_label(["tram", "fiddle", "dog"], LABELS) == Choice(name="Geige")


@pytest.mark.parametrize("detected", [["tram"], []])
def test_the_single_label_is_for_everything(detected: list[str]) -> None:
    assert choose_label(detected, (Label(name="thing"),)) == Choice(name="thing")


def test_what_the_project_has_no_label_for_is_left_out() -> None:
    assert choose_label(["tram", "bus"], LABELS) is None
    tram = Detection(names={"tram": 0.9}, score=0.9, mask=mask())
    targets = parse_label_config(CONFIG.format(tag="BrushLabels"))
    assert keyframe_regions(targets, task=7, model_version="v", page=0, time=0.9, objects=[tram]) == []


def test_a_model_that_names_nothing_gives_the_first_label_unsurely() -> None:
    assert choose_label([], LABELS) == Choice(name="Dog", remark="label not known")
