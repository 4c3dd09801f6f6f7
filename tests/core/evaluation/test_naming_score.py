"""Whether predicted objects go under the names of what sounds."""

import json
from pathlib import Path

import pytest

from av2t_core.data.avsbench import DataError, LabelledClip
from av2t_core.evaluation.naming_score import names_right

CLIP = LabelledClip(
    video="v",
    category="",
    split="test",
    frames=tuple(Path(f"{index}.png") for index in range(4)),
    masks=(Path("0.png"), Path("1.png"), None, Path("3.png")),
    sound=Path("v.wav"),
    heard=frozenset({0, 1, 2, 3}),
    names={0: frozenset({"parrot"}), 1: frozenset(), 2: frozenset({"dog"}), 3: frozenset({"dog", "horse"})},
)


def write(folder: Path, labels: list[list[str | None]]) -> None:
    (folder / "v").mkdir(exist_ok=True)
    keyframes = [{"objects": [{"label": label} for label in each]} for each in labels]
    (folder / "v" / "prediction.json").write_text(json.dumps({"keyframes": keyframes}))


def test_a_name_is_right_if_it_may_mean_what_sounds(tmp_path: Path) -> None:
    write(tmp_path, [["bird", "dog"], ["cat"], ["cat"], ["Horse", "puppy", None, "cat"]])
    assert names_right(tmp_path, CLIP) == (True, False, True, True, False, False)


def test_masks_alone_have_no_names(tmp_path: Path) -> None:
    assert names_right(tmp_path, CLIP) == ()


def test_a_prediction_of_another_clip_is_named(tmp_path: Path) -> None:
    write(tmp_path, [["bird"]])
    with pytest.raises(DataError, match=r"v/prediction\.json cannot be read as a prediction of v"):
        names_right(tmp_path, CLIP)
