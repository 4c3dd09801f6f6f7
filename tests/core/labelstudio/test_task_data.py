"""The values are those that Label Studio's page gives; `tests/e2e/test_page_rules.py` asks the page itself."""

from typing import Any

import pytest

from av2t_core.labelstudio.task_data import fill, frame_rate, look_up, variable


@pytest.mark.parametrize(
    ("text", "data", "rate"),
    [
        ("50", {}, 50),
        (" 50 ", {}, 50),
        ("5e1", {}, 50),
        ("0.02", {}, 50),
        ("$fps", {"fps": 50}, 50),
        ("$fps", {"fps": "50"}, 50),
        ("$fps", {"fps": 0.02}, 50),
        ("$fps", {"fps": "0.02"}, 50),
        ("$media.fps", {"media": {"fps": 50}}, 50),
        ("$rates[1].fps", {"rates": [25, {"fps": "5e1"}]}, 50),
        ("$media.fps", {"media": {"fps": 25}, "media.fps": 50}, 50),
        ("$tens$ones", {"tens": 5, "ones": 0}, 50),
        ("", {}, 24),
        ("fast", {}, 24),
        ("30000/1001", {}, 24),
        ("1_000", {}, 24),
        ("nan", {}, 24),
        ("$fps", {}, 24),
        ("$fps", {"fps": 0}, 24),
        ("$fps", {"fps": None}, 24),
        ("$fps", {"fps": "fast"}, 24),
        ("$fps fps", {"fps": 50}, 24),
        ("$rates[2]", {"rates": [25, 50]}, 24),
    ],
)
def test_a_frame_rate_is_the_pages(text: str, data: dict[str, Any], rate: float) -> None:
    assert frame_rate(data, text) == rate


@pytest.mark.parametrize("rate", [-5, float("inf"), float("nan"), 1e-320, True, {}, [], "9" * 10_000])
def test_a_frame_rate_that_no_clip_has_is_the_default(rate: object) -> None:
    assert frame_rate({"fps": rate}, "$fps") == 24


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("video", "u"),
        ("media.video", "v"),
        ("media[video]", "v"),
        ("videos[0]", "w"),
        ("videos.0", "w"),
        ("deep[1].er[0]", "x"),
        ("flat.key", "y"),
        ("Video", None),
        ("video.url", None),
        ("video[0]", None),
        ("videos[1]", None),
        ("videos[00]", None),
        ("videos[-1]", None),
        (f"videos[{'1' * 5000}]", None),
        ("media..video", None),
        ("media.video.", None),
        ("none.at.all", None),
    ],
)
def test_a_variable_is_a_key_or_a_path(name: str, found: object) -> None:
    data = {
        "video": "u",
        "media": {"video": "v"},
        "videos": ["w"],
        "deep": [0, {"er": ["x"]}],
        "flat.key": "y",
        "flat": {"key": "z"},
    }
    assert look_up(data, name) == found


def test_text_has_variables_in_it() -> None:
    assert fill({"folder": "a", "number": 7}, "/data/$folder/$number/clip.mp4") == "/data/a/7/clip.mp4"
    assert variable("$frames") == "frames"
    assert [variable(text) for text in ("frames", "$a$b", "$a/b", "$", "$größe", "$a ")] == [None] * 6
    for missing in ({}, {"folder": ""}, {"folder": None}, {"folder": ["a"]}, {"folder": True}):
        with pytest.raises(ValueError, match=r"^folder$"):
            fill(missing, "/data/$folder")
