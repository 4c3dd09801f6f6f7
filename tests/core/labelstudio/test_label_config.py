import contextlib
import subprocess
import sys
from collections.abc import Generator
from xml.etree import ElementTree

import pytest

from av2t_core import limits
from av2t_core.errors import ConfigError
from av2t_core.labelstudio import label_config
from av2t_core.labelstudio.label_config import CONTROLS, Control, Label, Targets, Video, parse_label_config

VIDEO = '<Video name="clip" value="$url" framerate="$rate" sync="sound"/>'
AUDIO = '<Audio name="sound" value="$url" sync="clip"/>'
IMAGE = '<Image name="pages" valueList="$stills" zoom="true"/>'
BRUSH = '<BrushLabels name="what" toName="pages"><Label value="dog"/><Label value="cat"/></BrushLabels>'
BITMASK = '<BitmaskLabels name="bits" toName="pages"><Label value="dog"/></BitmaskLabels>'


def view(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


def test_names_are_read_from_the_config() -> None:
    assert parse_label_config(view(VIDEO, AUDIO, BRUSH, IMAGE)) == Targets(
        video=Video(name="clip", value="$url", framerate="$rate"),
        controls=(
            Control(
                tag=CONTROLS["BrushLabels"],
                name="what",
                to_name="pages",
                frames="stills",
                labels=(Label(name="dog"), Label(name="cat")),
            ),
        ),
        images=("pages",),
    )


def test_tags_may_be_nested_and_in_any_order() -> None:
    xml = f'<?xml version="1.0" encoding="UTF-8"?>{view("<View>", BRUSH, "</View>", "<!-- c -->", IMAGE, VIDEO)}'
    assert parse_label_config(xml).controls[0].name == "what"


@pytest.mark.parametrize(("tags", "first"), [((BRUSH, BITMASK), "BrushLabels"), ((BITMASK, BRUSH), "BitmaskLabels")])
def test_the_first_mask_control_is_used(tags: tuple[str, ...], first: str) -> None:
    assert [control.tag.name for control in parse_label_config(view(VIDEO, *tags, IMAGE)).controls] == [first]


def test_a_control_of_a_single_image_is_passed_over_for_one_of_a_list() -> None:
    single = '<Image name="still" value="$still"/>'
    other = '<BrushLabels name="other" toName="still"><Label value="dog"/></BrushLabels>'
    targets = parse_label_config(view(VIDEO, single, other, BRUSH, IMAGE))
    assert [(control.name, control.to_name) for control in targets.controls] == [("what", "pages")]


def test_every_kind_of_control_gets_its_regions_on_the_image_that_it_points_at() -> None:
    other = '<Image name="again" valueList="$copies"/>'
    polygon = '<PolygonLabels name="outline" toName="again"><Label value="dog"/></PolygonLabels>'
    box = '<RectangleLabels name="{}" toName="pages"><Label value="dog"/></RectangleLabels>'
    targets = parse_label_config(
        view(VIDEO, polygon, BITMASK, BRUSH, box.format("box"), box.format("more"), IMAGE, other)
    )
    assert [(control.name, control.frames) for control in targets.controls] == [
        ("outline", "copies"),
        ("bits", "stills"),
        ("box", "stills"),
    ]
    assert targets.frame_variables == ("copies", "stills")


LABELS = '<Labels name="things" toName="{0}"><Label value="dog"/></Labels><Labels name="x" toName="pages"/>'
TRACK = '<VideoRectangle name="track-{0}" toName="{0}"/>'
RANGES = '<TimelineLabels name="times-{0}" toName="{0}"><Label value="cat"/></TimelineLabels>'


def test_controls_of_the_video_need_no_frames() -> None:
    targets = parse_label_config(view(LABELS.format("clip"), TRACK.format("clip"), RANGES.format("clip"), VIDEO))
    assert targets.controls == (
        Control(
            tag=CONTROLS["VideoRectangle"], name="track-clip", to_name="clip", frames=None, labels=(Label(name="dog"),)
        ),
        Control(
            tag=CONTROLS["TimelineLabels"], name="times-clip", to_name="clip", frames=None, labels=(Label(name="cat"),)
        ),
    )
    assert targets.frame_variables == ()


def test_the_clip_is_that_of_the_video_that_a_control_points_at() -> None:
    other = '<Video name="other" value="$url2" framerate="12.5"/>'
    targets = parse_label_config(
        view(VIDEO, other, BRUSH, IMAGE, RANGES.format("other"), TRACK.format("clip"), LABELS.format("clip"))
    )
    assert targets.video == Video(name="other", value="$url2", framerate="12.5")
    assert [control.name for control in targets.controls] == ["what", "times-other"]


def test_names_of_tags_and_attributes_may_stand_in_any_case() -> None:
    as_written = view(VIDEO, BRUSH, IMAGE, TRACK.format("clip"), LABELS.format("clip"))
    for changed in (
        as_written.replace("framerate", "frameRate").replace("valueList", "valuelist").replace("toName", "TONAME"),
        as_written.replace("<Video ", "<VIDEO ").replace("Label", "label").replace("Image", "image"),
        as_written.replace('value="', 'Value="').replace('name="', 'Name="'),
    ):
        assert changed != as_written
        assert parse_label_config(changed) == parse_label_config(as_written)


def test_what_stands_inside_a_tag_is_its_value() -> None:
    brush = '<BrushLabels name="what" toName="pages"><Label> dog </Label><Label value="cat"> </Label></BrushLabels>'
    targets = parse_label_config(view('<Video name="clip" value="$a">$b</Video>', brush, IMAGE))
    assert targets.video.value == "$b"
    assert targets.controls[0].labels == (Label(name="dog"), Label(name="cat"))


def test_values_may_be_paths_into_the_data() -> None:
    video = '<Video name="clip" value="$clips[0].url" framerate="$clips[0].fps"/>'
    targets = parse_label_config(view(video, BRUSH, IMAGE.replace("$stills", "$clips[0].stills")))
    assert (targets.video.value, targets.video.framerate) == ("$clips[0].url", "$clips[0].fps")
    assert targets.frame_variables == ("clips[0].stills",)


def test_predicted_values_and_alias() -> None:
    brush = (
        '<BrushLabels name="what" toName="pages"><Label value="Hund" predicted_values="dog, barking dog,"/>'
        '<Label value="Katze" alias="cat"/><Label value="Hund"/></BrushLabels>'
    )
    assert parse_label_config(view(VIDEO, brush, IMAGE)).controls[0].labels == (
        Label(name="Hund", predicted_values=("dog", "barking dog")),
        Label(name="cat"),
    )


def test_what_the_labels_mean_is_their_predicted_values_or_their_names() -> None:
    brush = '<BrushLabels name="a" toName="pages"><Label value="Hund" predicted_values="dog"/></BrushLabels>'
    times = '<TimelineLabels name="b" toName="clip"><Label value="violin"/><Label value="dog"/></TimelineLabels>'
    assert parse_label_config(view(VIDEO, brush, times, IMAGE)).names == ("dog", "violin")


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        ("", "is empty"),
        ("<View", "not well-formed"),
        ('<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><View>&b;</View>', "DOCTYPE"),
        (view(VIDEO, IMAGE), "none of BrushLabels, BitmaskLabels, PolygonLabels, RectangleLabels, VideoRectangle, "),
        (view(VIDEO, BRUSH), 'points at "pages", and there is no Image of that name'),
        (view(VIDEO, BRUSH, '<Image name="pages" value="$still"/>'), 'give it valueList="$frames"'),
        (view(VIDEO, BRUSH, '<Image name="pages" valueList="a.jpg"/>'), 'give it valueList="$frames"'),
        (view(VIDEO, '<BrushLabels name="what" toName="pages"/>', IMAGE), "has no Label"),
        (view(VIDEO, '<BrushLabels toName="pages"/>', IMAGE), "has no name"),
        (view(VIDEO, TRACK.format("clip")), 'has no Label; give it at least one in a <Labels toName="clip"> beside it'),
        (view(VIDEO, RANGES.format("pages"), IMAGE), 'points at "pages", and there is no Video of that name'),
        (view(VIDEO, BRUSH, '<Image name="pages" valueList="$a$b"/>'), 'give it valueList="$frames"'),
        (view(IMAGE, BRUSH), "no Video that reads its clip from the task"),
        (view('<Video name="clip" value="http://127.0.0.1/a.mp4"/>', IMAGE, BRUSH), "no Video that reads"),
    ],
)
def test_what_cannot_be_predicted_into_is_refused_in_one_sentence(xml: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_label_config(xml)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_service_that_imports_it_stays_light() -> None:
    heavy = {"torch", "numpy", "label_studio_sdk", "lxml"}
    code = f"import sys, av2t_core.labelstudio.label_config; print({heavy!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "set()"


def many(count: int, tag: str) -> str:
    return "".join(tag.format(number) for number in range(count))


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        (view(VIDEO, BRUSH, IMAGE, "<!--", "x" * limits.LABEL_CONFIG, "-->"), "characters; make it smaller than 1 MB"),
        (view(VIDEO, BRUSH, IMAGE, many(limits.CONFIG_TAGS, '<Label value="{}"/>')), "more than 10000 tags;"),
        ("<View>" * 50_000 + "</View>" * 50_000, "more than 100 tags in each other"),
        (
            view(VIDEO, IMAGE, BRUSH.replace('value="dog"', f'value="dog" predicted_values="{many(5000, "{},")}"')),
            "have 5001 names",
        ),
    ],
    ids=["size", "tags", "depth", "names"],
)
def test_a_config_has_its_bounds(xml: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        parse_label_config(xml)
    assert len(str(error.value)) < limits.SENTENCE


def test_tags_beside_each_other_are_not_in_each_other() -> None:
    tags = many(limits.CONFIG_TAGS // 4, '<Header value="{}"/>')
    assert parse_label_config(view(tags, VIDEO, BRUSH, IMAGE)).controls[0].name == "what"


def test_the_work_grows_as_the_config_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many controls there are, and whatever is wrong with them: each tag is looked at a few times."""
    looked = 0

    class Counted(ElementTree.Element):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]  # as it is
            nonlocal looked
            looked += 1
            return super().get(key, default)

        def iter(self, tag: str | None = None) -> Generator[ElementTree.Element, None, None]:
            nonlocal looked
            looked += 1
            return super().iter(tag)

    class Counting(label_config._Bounded):
        def __init__(self) -> None:
            ElementTree.TreeBuilder.__init__(self, element_factory=Counted)
            self._tags = self._depth = 0

    monkeypatch.setattr(label_config, "_Bounded", Counting)
    for control in (
        '<BrushLabels name="m{0}" toName="i{0}"/>',
        '<BrushLabels name="m{0}" toName="i{0}"><Label value="dog"/></BrushLabels>',
        '<VideoRectangle name="m{0}" toName="v{0}"/><Labels name="l{0}" toName="v{0}"/>',
        '<VideoRectangle name="m{0}" toName="clip"/><Labels name="l{0}" toName="clip"/>',
    ):
        looked = 0
        tags = many(1000, control + '<Image name="i{0}" valueList="$x"/><Video name="v{0}" value="$v"/>')
        with contextlib.suppress(ConfigError):
            parse_label_config(view(VIDEO, tags))
        assert 1000 < looked < 20_000
