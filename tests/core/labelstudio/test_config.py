import subprocess
import sys

import pytest

from av2t_core.errors import ConfigError
from av2t_core.labelstudio.config import Control, Frames, Label, Targets, Video, parse_label_config

VIDEO = '<Video name="clip" value="$url" framerate="$rate" sync="sound"/>'
AUDIO = '<Audio name="sound" value="$url" sync="clip"/>'
IMAGE = '<Image name="pages" valueList="$stills" zoom="true"/>'
BRUSH = '<BrushLabels name="what" toName="pages"><Label value="dog"/><Label value="cat"/></BrushLabels>'
BITMASK = '<BitmaskLabels name="bits" toName="pages"><Label value="dog"/></BitmaskLabels>'


def view(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


def test_names_are_read_from_the_config() -> None:
    assert parse_label_config(view(VIDEO, AUDIO, BRUSH, IMAGE)) == Targets(
        video=Video(name="clip", variable="url", fps_variable="rate"),
        frames=Frames(name="pages", variable="stills"),
        controls=(
            Control(tag="BrushLabels", name="what", to_name="pages", labels=(Label(name="dog"), Label(name="cat"))),
        ),
    )


def test_tags_may_be_nested_and_in_any_order() -> None:
    xml = f'<?xml version="1.0" encoding="UTF-8"?>{view("<View>", BRUSH, "</View>", "<!-- c -->", IMAGE, VIDEO)}'
    assert parse_label_config(xml).controls[0].name == "what"


@pytest.mark.parametrize(("tags", "first"), [((BRUSH, BITMASK), "BrushLabels"), ((BITMASK, BRUSH), "BitmaskLabels")])
def test_the_first_mask_control_is_used(tags: tuple[str, ...], first: str) -> None:
    assert [control.tag for control in parse_label_config(view(VIDEO, *tags, IMAGE)).controls] == [first]


def test_a_control_of_a_single_image_is_passed_over_for_one_of_a_list() -> None:
    single = '<Image name="still" value="$still"/>'
    other = '<BrushLabels name="other" toName="still"><Label value="dog"/></BrushLabels>'
    targets = parse_label_config(view(VIDEO, single, other, BRUSH, IMAGE))
    assert (targets.controls[0].name, targets.frames.name) == ("what", "pages")


def test_constant_frame_rate_is_no_variable() -> None:
    video = '<Video name="clip" value="$url" framerate="25"/>'
    assert parse_label_config(view(video, BRUSH, IMAGE)).video.fps_variable is None


def test_predicted_values_and_alias() -> None:
    brush = (
        '<BrushLabels name="what" toName="pages"><Label value="Hund" predicted_values="dog, barking dog,"/>'
        '<Label value="Katze" alias="cat"/><Label value="Hund"/></BrushLabels>'
    )
    assert parse_label_config(view(VIDEO, brush, IMAGE)).controls[0].labels == (
        Label(name="Hund", predicted_values=("dog", "barking dog")),
        Label(name="cat"),
    )


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        ("", "is empty"),
        ("<View", "not well-formed"),
        ('<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><View>&b;</View>', "DOCTYPE"),
        (view(VIDEO, IMAGE), "no BrushLabels or BitmaskLabels"),
        (view(VIDEO, BRUSH), 'points at "pages", and there is no Image of that name'),
        (view(VIDEO, BRUSH, '<Image name="pages" value="$still"/>'), 'give it valueList="$frames"'),
        (view(VIDEO, BRUSH, '<Image name="pages" valueList="a.jpg"/>'), 'give it valueList="$frames"'),
        (view(VIDEO, '<BrushLabels name="what" toName="pages"/>', IMAGE), "has no Label"),
        (view(VIDEO, '<BrushLabels toName="pages"/>', IMAGE), "has no name"),
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
    code = f"import sys, av2t_core.labelstudio.config; print({heavy!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "set()"
