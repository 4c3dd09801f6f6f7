"""What a person says of a clip: round trips through what is predicted, and through what the page writes."""

import base64
import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray
from PIL import Image

from av2t.remedies import told
from av2t_core.labelstudio import annotations, rle
from av2t_core.labelstudio.annotations import (
    AnnotationError,
    ClipMasks,
    can_hold_masks,
    count_origins,
    image_tags,
    read_annotation,
)
from av2t_core.labelstudio.controls import polygon
from av2t_core.labelstudio.label_config import Targets, parse_label_config
from av2t_core.labelstudio.regions import clip_regions, keyframe_regions
from av2t_core.labelstudio.tracks import Clock, Sighting
from av2t_core.prediction.objects import Detection

Mask = NDArray[np.bool_]
SHAPE = (48, 64)
CONFIG = """<View><Video name="video" value="$video" framerate="25"/>{controls}
<Image name="frames" valueList="$frames"/><Image name="still" value="$still"/></View>"""
LABELS = '<Label value="dog"/><Label value="guitar"/>'


def targets_of(*tags: str) -> Targets:
    controls = "".join(f'<{tag} name="{tag}" toName="frames">{LABELS}</{tag}>' for tag in tags)
    return parse_label_config(CONFIG.format(controls=controls))


BRUSH = targets_of("BrushLabels")


def block(top: int, left: int, bottom: int, right: int) -> Mask:
    mask = np.zeros(SHAPE, bool)
    mask[top:bottom, left:right] = True
    return mask


DOG, GUITAR = block(4, 5, 30, 20), block(10, 15, 40, 60)


def predicted(targets: Targets, pages: dict[int, list[Mask]], **changes: Any) -> list[dict[str, Any]]:
    """As a prediction, with `changes` in every region."""
    regions = []
    for page, masks in pages.items():
        things = [
            Detection(names={name: 0.9}, score=0.8, mask=mask)
            for name, mask in zip(("dog", "guitar"), masks, strict=False)
        ]
        regions += keyframe_regions(targets, task=1, model_version="v", page=page, time=page + 0.9375, objects=things)
    return [{**region, **changes} for region in regions]


def read(targets: Targets, result: list[Any], *, pages: int = 5, boxes: bool = False) -> ClipMasks:
    return read_annotation(targets, result, shape=SHAPE, pages=pages, boxes=boxes)


def brush(mask: Mask | NDArray[np.uint8] = DOG, **changes: Any) -> dict[str, Any]:
    """A region as the page writes it, encoded by the SDK."""
    alpha = mask if mask.dtype == np.uint8 else np.where(mask, 255, 0).astype(np.uint8)
    return {
        "id": "a1",
        "from_name": "BrushLabels",
        "to_name": "frames",
        "type": "brushlabels",
        "origin": "manual",
        "item_index": 0,
        "original_width": alpha.shape[1],
        "original_height": alpha.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": mask2rle(alpha), "brushlabels": ["dog"]},
        **changes,
    }


def region(type: str, value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return brush(type=type, from_name=f"{type.removesuffix('labels').title()}Labels", value=value, **changes)


def bitmask(png: bytes, **changes: Any) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return region("bitmasklabels", {"imageDataURL": url, "bitmasklabels": ["dog"]}, **changes)


def png_of(alpha: NDArray[Any], mode: str = "RGBA") -> bytes:
    image = np.zeros((*alpha.shape, 4), np.uint8)
    image[..., 3] = alpha
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "PolygonLabels"])
def test_what_was_predicted_comes_back(tag: str) -> None:
    targets = targets_of(tag)
    result = predicted(targets, {0: [DOG, GUITAR], 3: [GUITAR]}, origin="prediction")
    masks = read(targets, result)
    assert list(masks) == [0, 3]
    assert (masks[0] == DOG | GUITAR).all()
    assert (masks[3] == GUITAR).all()
    first, second, third = masks.objects
    assert [(thing.page, thing.labels) for thing in (first, second, third)] == [
        (0, ("dog",)),
        (0, ("guitar",)),
        (3, ("dog",)),
    ]
    assert (first.mask == DOG).all()
    assert (second.mask == GUITAR).all()
    assert count_origins(targets, result) == {"prediction": 3, "prediction-changed": 0, "manual": 0}
    assert masks.accepted == {0, 3}


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels"])
def test_any_mask_comes_back_bit_for_bit(tag: str) -> None:
    rng = np.random.default_rng(0)
    targets = targets_of(tag)
    for density in (0.001, 0.3, 0.5, 0.9, 1):
        mask = rng.random(SHAPE) < density
        assert (read(targets, predicted(targets, {1: [mask]}))[1] == mask).all()


def test_a_polygons_hole_stays_one() -> None:
    mask = DOG.copy()
    mask[10:20, 10:15] = False
    targets = targets_of("PolygonLabels")
    assert (read(targets, predicted(targets, {0: [mask]}))[0] == mask).all()


def test_where_nobody_drew_nothing_sounds() -> None:
    masks = read(BRUSH, [])
    assert (dict(masks), masks.objects) == ({}, ())
    with pytest.raises(KeyError):
        masks[0]
    assert 0 not in masks


def test_what_was_rubbed_out_is_nothing() -> None:
    result = [brush(np.zeros(SHAPE, bool), origin="prediction-changed")]
    masks = read(BRUSH, result)
    assert (dict(masks), masks.objects) == ({}, ())
    assert count_origins(BRUSH, result) == {"prediction": 0, "prediction-changed": 1, "manual": 0}


def test_smoothed_edges_are_cut_in_the_middle() -> None:
    alpha = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    assert (read(BRUSH, [brush(alpha)])[0] == (alpha > 127)).all()
    assert (read(BRUSH, [bitmask(png_of(alpha))])[0] == (alpha > 127)).all()


def test_masks_of_every_control_on_the_frames_count() -> None:
    """Of those that say the same only the first is predicted into, and people draw with any."""
    targets = targets_of("BrushLabels", "BitmaskLabels")
    assert [control.name for control in targets.controls] == ["BrushLabels"]
    masks = read(targets, [brush(DOG), bitmask(png_of(255 * GUITAR), item_index=1)])
    assert (masks[0] == DOG).all()
    assert (masks[1] == GUITAR).all()


def test_a_region_that_has_lost_its_label_still_has_its_mask() -> None:
    for type in ("brush", "brushlabels"):
        (thing,) = read(BRUSH, [brush(type=type, value={"format": "rle", "rle": mask2rle(255 * DOG)})]).objects
        assert (thing.labels, (thing.mask == DOG).all()) == ((), True)


def test_what_holds_no_mask_is_passed_over() -> None:
    config = CONFIG.format(
        controls=f'<BrushLabels name="BrushLabels" toName="frames">{LABELS}</BrushLabels>'
        f'<Labels name="things" toName="video">{LABELS}</Labels><VideoRectangle name="box" toName="video"/>'
        f'<TimelineLabels name="times" toName="video">{LABELS}</TimelineLabels>'
    )
    targets = parse_label_config(config)
    sighting = Sighting(number=1, names=("dog",), window=0, time=0.9, box=(1, 2, 3, 4), score=0.5)
    result = clip_regions(
        targets, task=1, model_version="v", clock=Clock(rate=25, duration=5), size=SHAPE, sightings=[sighting]
    )
    assert {each["type"] for each in result} == {"videorectangle", "timelinelabels"}
    result += [
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        {"id": "c", "from_name": "q", "to_name": "video", "type": "choices", "value": {"choices": ["good"]}},
        {"id": "a1", "from_name": "t", "to_name": "frames", "type": "textarea", "value": {"text": ["a"]}},
        brush(to_name="still", item_index=None),
    ]
    result.append(brush())
    assert len(read(targets, result).objects) == 1
    assert sum(count_origins(targets, result).values()) == 1


@pytest.mark.parametrize("origin", ["prediction-changed", "manual", None])
def test_a_page_is_accepted_if_nothing_on_it_was_drawn(origin: str | None) -> None:
    result = [
        brush(DOG, origin="prediction"),
        brush(GUITAR, origin=origin),
        brush(DOG, origin="prediction", item_index=1),
    ]
    masks = read_annotation(BRUSH, result, shape=SHAPE, pages=2)
    assert masks.accepted == {1}


def test_origins_are_counted_without_decoding() -> None:
    result = [brush(origin=origin, value={}) for origin in ("prediction", "manual", "prediction", None)]
    assert count_origins(BRUSH, result) == {"prediction": 2, "prediction-changed": 0, "manual": 2}


def test_masks_of_another_size_are_resized() -> None:
    large = np.kron(DOG, np.ones((3, 3), bool))
    assert (read(BRUSH, [brush(large)])[0] == DOG).all()
    assert (read(BRUSH, [bitmask(png_of(255 * large), original_width=192, original_height=144)])[0] == DOG).all()
    square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "closed": True, "polygonlabels": ["dog"]}
    (mask,) = read(BRUSH, [region("polygonlabels", square, original_width=9)]).values()
    assert (mask == block(0, 0, 24, 32)).all()


def test_the_page_may_be_left_out_where_there_is_one() -> None:
    single = brush()
    del single["item_index"]
    assert list(read(BRUSH, [single], pages=1)) == [0]
    with pytest.raises(AnnotationError, match=r'Region "a1" cannot be used, it does not say on which of 5 pages'):
        read(BRUSH, [single])


# Rectangles


def rectangle(mask: Mask = DOG, **changes: Any) -> dict[str, Any]:
    (found,) = predicted(targets_of("RectangleLabels"), {0: [mask]}, origin="manual", **changes)
    return found


BOTH = targets_of("BrushLabels", "RectangleLabels")


def test_a_rectangle_counts_where_it_is_wanted() -> None:
    result = [rectangle(), brush(GUITAR, item_index=1)]
    masks = read(BOTH, result, boxes=True)
    assert (masks[0] == DOG).all()
    assert (masks[1] == GUITAR).all()
    assert count_origins(BOTH, result)["manual"] == 2


def test_a_rectangle_without_a_mask_in_it_is_not_taken_for_silence() -> None:
    elsewhere = brush(block(35, 30, 40, 60))
    with pytest.raises(AnnotationError, match="on page 1 is a rectangle without a mask in it") as caught:
        read(BOTH, [rectangle(), elsewhere])
    assert told(caught.value).endswith("; AV2T_BOX_HINTS=true has rectangles count as masks")


@pytest.mark.parametrize("boxes", [True, False])
def test_a_mask_says_more_than_the_rectangle_around_it(boxes: bool) -> None:
    mask = DOG & (np.indices(SHAPE).sum(axis=0) % 2 == 0)
    masks = read(BOTH, predicted(BOTH, {0: [mask, GUITAR]}), boxes=boxes)
    assert (masks[0] == mask | GUITAR).all()
    assert len(masks.objects) == 2


def test_what_people_draw_with_a_control_of_their_own_says_nothing_of_sound() -> None:
    own = f'<RectangleLabels name="own" toName="frames" predict="false">{LABELS}</RectangleLabels>'
    targets = parse_label_config(
        CONFIG.format(controls=f'{own}<BrushLabels name="mask" toName="frames">{LABELS}</BrushLabels>')
    )
    assert [control.name for control in targets.controls] == ["mask"]
    [box] = predicted(targets_of("RectangleLabels"), {0: [DOG]}, from_name="own")
    [mask] = predicted(targets, {1: [DOG]})
    assert list(read_annotation(targets, [box, mask], shape=SHAPE, pages=2)) == [1]
    assert sum(count_origins(targets, [box, mask]).values()) == 1


def test_rectangles_of_other_controls_may_mean_anything() -> None:
    for boxes in (True, False):
        assert not read(BOTH, [rectangle(from_name="faces")], boxes=boxes)


def test_a_rectangle_is_not_taken_for_silence_where_no_control_is_for_them() -> None:
    """As with a plain Rectangle beside Labels."""
    plain = rectangle(from_name="plain", type="rectangle")
    with pytest.raises(AnnotationError, match="on page 1 is a rectangle without a mask in it"):
        read(BRUSH, [plain])
    assert (read(BRUSH, [plain], boxes=True)[0] == DOG).all()


def test_a_rectangle_that_is_turned() -> None:
    """By a right angle around its first corner, which here lies in the middle."""
    value = {"x": 50, "y": 50, "width": 25, "height": 25, "rotation": 90, "rectanglelabels": ["dog"]}
    # 16 by 12 pixels, which lie left of the corner and below it then, 12 by 16.
    assert (read(BOTH, [rectangle(value=value)], boxes=True)[0] == block(24, 20, 40, 32)).all()
    assert (read(BOTH, [rectangle(value={**value, "rotation": 0})], boxes=True)[0] == block(24, 32, 36, 48)).all()


def test_which_projects_can_say_where_something_sounds() -> None:
    for tag in (tag.name for tag in image_tags()):
        assert can_hold_masks(targets_of(tag)) == (tag != "RectangleLabels")
        assert can_hold_masks(targets_of(tag), boxes=True)
    times = f'<TimelineLabels name="times" toName="video">{LABELS}</TimelineLabels>'
    assert not can_hold_masks(parse_label_config(CONFIG.format(controls=times)), boxes=True)


# What is drawn with controls that nothing is predicted into


def round_(**changes: Any) -> dict[str, Any]:
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0, "ellipselabels": ["dog"], **changes}
    return region("ellipselabels", value)


def path(*points: tuple[float, float], closed: bool = True, **changes: Any) -> dict[str, Any]:
    vertices = [{"x": x, "y": y, "isBezier": False} for x, y in points]
    return region("vectorlabels", {"vertices": vertices, "closed": closed, "vectorlabels": ["dog"], **changes})


def dot(x: float, y: float, **changes: Any) -> dict[str, Any]:
    return region("keypointlabels", {"x": x, "y": y, "width": 0.5, "keypointlabels": ["dog"]}, **changes)


@pytest.mark.parametrize("degrees", [0, 30, 90, -45])
def test_an_ellipse_is_a_mask(degrees: float) -> None:
    [thing] = read(BRUSH, [round_(rotation=degrees, x=40, y=45)]).objects
    assert thing.labels == ("dog",)
    rows, columns = np.nonzero(thing.mask)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((0.45 * 48, 0.4 * 64), abs=0.3)
    assert len(rows) == pytest.approx(np.pi * 16 * 12, rel=0.02)
    # Its longer axis, of the points' spread, is turned clockwise as the page's y goes down.
    spread = np.linalg.eigh(np.cov(columns, rows))
    along = spread.eigenvectors[:, 1]
    turned = np.rad2deg(np.arctan2(along[1], along[0]))
    assert (turned - degrees + 90) % 180 - 90 == pytest.approx(0, abs=3)


def test_what_the_magic_wand_has_filled_is_a_mask() -> None:
    wand = brush(type="magicwand", from_name="wand", value={"format": "rle", "rle": mask2rle(255 * DOG)})
    assert (read(BRUSH, [wand])[0] == DOG).all()


def test_a_closed_path_is_a_mask() -> None:
    (mask,) = read(BRUSH, [path((0, 0), (50, 0), (50, 50), (0, 50))]).values()
    assert (mask == block(0, 0, 24, 32)).all()


def test_a_path_goes_as_its_vertices_name_each_other_and_along_its_curves() -> None:
    """A circle of four curves, in the middle of which another order would have a hole."""
    kappa, handles = 0.5523 * 40, []
    for x, y, along_x, along_y in ((90, 50, 0, 1), (50, 90, -1, 0), (10, 50, 0, -1), (50, 10, 1, 0)):
        before = {"x": x - kappa * along_x, "y": y - kappa * along_y}
        after = {"x": x + kappa * along_x, "y": y + kappa * along_y}
        handles.append({"x": x, "y": y, "isBezier": True, "controlPoint1": before, "controlPoint2": after})
    vertices = [{**each, "id": f"v{i}", "prevPointId": f"v{(i - 1) % 4}"} for i, each in enumerate(handles)]
    for order in ((0, 1, 2, 3), (2, 0, 3, 1)):
        [circle] = read(BRUSH, [path(vertices=[vertices[i] for i in order])]).values()
        assert np.count_nonzero(circle) == pytest.approx(np.pi * 0.4 * 64 * 0.4 * 48, rel=0.01)
        assert circle[24, 32]


def test_a_point_says_nothing_more_than_the_mask_around_it() -> None:
    assert (read(BRUSH, [dot(20, 30), brush(DOG)])[0] == DOG).all()
    for boxes in (False, True):
        for result in ([dot(20, 30)], [dot(90, 90), brush(DOG)]):
            with pytest.raises(AnnotationError, match="is a keypoint without a mask around it: draw what") as caught:
                read(BRUSH, result, boxes=boxes)
            assert "AV2T_BOX_HINTS" not in told(caught.value)


@pytest.mark.parametrize(
    "drawn", [round_(radiusX=0), path((1, 1), (50, 50), (1, 1)), path((200, 200), (300, 200), (300, 300))]
)
def test_what_covers_no_pixel_is_not_taken_for_silence(drawn: dict[str, Any]) -> None:
    with pytest.raises(AnnotationError, match=r"on page 1 is a (ellipse|vector) without an area: draw what sounds"):
        read(BRUSH, [drawn])
    assert (read(BRUSH, [drawn, brush(DOG)])[0] == DOG).all()


def test_masks_on_every_image_that_shows_the_frames_count() -> None:
    again = CONFIG.replace("<Image", '<Image name="again" valueList="$frames"/><Image', 1)
    targets = parse_label_config(again.format(controls=f'<BrushLabels name="a" toName="frames">{LABELS}</BrushLabels>'))
    assert (read(targets, [brush(DOG, to_name="again", from_name="b")])[0] == DOG).all()


# What is refused


POLYGON = {"points": [[0, 0], [50, 0], [50, 50]], "closed": True, "polygonlabels": ["dog"]}
BOX = {"x": 1, "y": 1, "width": 9, "height": 9, "rotation": 0, "rectanglelabels": ["dog"]}


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (brush(item_index=5), "its item_index is 5, and the clip has 5 keyframes"),
        (brush(item_index=-1), "its item_index is -1"),
        (brush(item_index="0"), "its item_index is '0'"),
        (brush(item_index=True), "its item_index is True"),
        (brush(image_rotation=90), "turned by 90 degrees"),
        (brush(value=None), "it has no value"),
        (brush(value={}), "its format is None"),
        (brush(value={"format": "rle", "rle": [1, 2, 3]}), "its rle is cut off"),
        (brush(original_width=32), "its rle is of 12288 values, and its size asks for 6144"),
        (brush(original_width=None), "its picture's size is given as None by 48"),
        (brush(original_height=0), "as 64 by 0"),
        (brush(original_width=10**6, original_height=10**6), "as 1000000 by 1000000"),
        (region("bitmasklabels", {}), "it has no PNG"),
        (region("bitmasklabels", {"imageDataURL": "data:image/jpeg;base64,AAAA"}), "it has no PNG"),
        (region("bitmasklabels", {"imageDataURL": "data:image/png;base64,!"}), "its PNG is damaged"),
        (bitmask(b"\x89PNG"), "its PNG is damaged"),
        (bitmask(b"GIF89a" + bytes(50)), "its PNG is damaged"),
        (bitmask(png_of(255 * DOG)[:-20]), "its PNG is damaged"),
        (bitmask(png_of(255 * DOG), original_width=65), "its PNG is 64x48, and its picture 65x48"),
        (bitmask(png_of(255 * DOG, "RGB")), "has no alpha"),
        (region("polygonlabels", {**POLYGON, "closed": False}), "it is not closed"),
        (region("polygonlabels", {**POLYGON, "points": [[0, 0], [1, 1]]}), "no points that make a polygon"),
        (region("polygonlabels", {**POLYGON, "points": [[0, 0], [1, 1], [2]]}), "no points that make a polygon"),
        (region("polygonlabels", {**POLYGON, "points": [[0, 0], [1, 1], [2, None]]}), "one of its numbers is None"),
        (region("polygonlabels", {**POLYGON, "points": [[0, 0], [1, 1], [2, 1e300]]}), "one of its numbers is 1e"),
        (round_(radiusX="9"), "one of its numbers is '9'"),
        (brush(type="magicwand", value={}), "its format is None"),
        (path((0, 0), (50, 0), (50, 50), closed=False), "it is a line that is not closed"),
        (path((0, 0), (50, 0)), "no vertices that make a path"),
        (path(vertices=[{}, {}, {}]), "one of its numbers is None"),
        (path(vertices=[{"id": id, "prevPointId": "a", "x": 1, "y": 1} for id in "bcd"]), "its path branches"),
        (region("rectanglelabels", {**BOX, "x": float("nan")}), "one of its numbers is nan"),
        (region("rectanglelabels", {**BOX, "width": "9"}), "one of its numbers is '9'"),
        (region("rectanglelabels", {**BOX, "rotation": 5}, original_width=0), "size is given as 0 by 48"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused_by_name(refused: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AnnotationError, match=sentence) as caught:
        read(BOTH, [brush(GUITAR), refused], boxes=True)
    assert str(caught.value).startswith('Region "a1"')
    assert str(caught.value).endswith("; delete it and draw it again.")


def test_what_is_no_region_is_refused() -> None:
    with pytest.raises(AnnotationError, match="The annotation holds 'mask', which is no region"):
        read(BRUSH, ["mask"])


def test_a_picture_that_unpacks_to_gigabytes_is_not_unpacked() -> None:
    file = io.BytesIO()
    Image.new("1", (30000, 30000)).save(file, "PNG")
    with pytest.raises(AnnotationError, match="its PNG is 30000x30000"):
        read(BRUSH, [bitmask(file.getvalue())])
    with pytest.raises(AnnotationError, match="size is given as 30000 by 30000"):
        read(BRUSH, [bitmask(file.getvalue(), original_width=30000, original_height=30000)])


@pytest.mark.parametrize(
    ("bound", "most", "refused", "sentence"),
    [
        ("POLYGON_POINTS", 10, 11, "it has 11 points, and at most 10 can be used; delete it and draw it again"),
        ("RLE_BYTES", 10, 0, r"its rle has \d+ bytes, and at most 10 can be used; delete it and draw it again"),
        ("ANNOTATION_PIXELS", 2 * SHAPE[0] * SHAPE[1], 3, "has 3 regions on frames of 64 x 48 pixels.*delete some"),
    ],
)
def test_more_than_can_be_held_is_refused(
    monkeypatch: pytest.MonkeyPatch, bound: str, most: int, refused: int, sentence: str
) -> None:
    for module in (annotations, rle, polygon):
        monkeypatch.setattr(module, bound, most, raising=False)
    if bound == "POLYGON_POINTS":
        points = [[k, k * k] for k in range(refused)]
        result = [region("polygonlabels", {"points": points, "closed": True, "polygonlabels": ["dog"]})]
    else:
        result = [brush()] * max(1, refused)
    with pytest.raises(AnnotationError, match=sentence):
        read(BRUSH, result)


def test_a_page_of_many_masks_is_put_together_one_by_one() -> None:
    shape, many = (1080, 1920), [brush(np.ones((8, 8), bool))] * 40
    masks = read_annotation(BRUSH, many, shape=shape, pages=5)
    tracemalloc.start()
    try:
        assert masks[0].all()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * shape[0] * shape[1]


def test_damage_to_a_png_is_told() -> None:
    """Whatever it hits: a picture is guarded by checksums."""
    rng = np.random.default_rng(0)
    whole = png_of(np.random.default_rng(1).integers(0, 256, SHAPE))
    for at in [*range(100), *rng.integers(len(whole), size=200)]:
        png = bytearray(whole)
        png[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(AnnotationError, match="its PNG"):
            read(BRUSH, [bitmask(bytes(png))])
        with pytest.raises(AnnotationError, match="its PNG"):
            read(BRUSH, [bitmask(whole[:at])])
