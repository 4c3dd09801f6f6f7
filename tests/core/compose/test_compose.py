"""Composed scenes, sounds and clips, from the project's own cut-outs."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from av2t_core.compose.clip import ClipRecipe, draw_recipe, soundtrack, write_clip
from av2t_core.compose.cutouts import SAMPLE_RATE, Cutouts
from av2t_core.compose.scene import Actor, Scene, draw_scene
from av2t_core.errors import AV2TError
from av2t_core.media import Clip

CUTOUTS = Path(__file__).parents[2] / "data" / "cutouts"


@pytest.fixture(scope="module")
def cutouts() -> Cutouts:
    return Cutouts.load(CUTOUTS)


def square(value: int, side: int = 40) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((side, side, 4), (value, value, value, 255), np.uint8)


def still(label: str | None, value: int, x: float) -> Actor:
    """A square of a quarter of the canvas that does not move."""
    return Actor(
        label=label,
        image=square(value),
        scale=0.25,
        start=(x, 0.5),
        end=(x, 0.5),
        period=1,
        angle=0,
        swing=0,
        flip=False,
    )


def test_the_mask_is_where_the_thing_is_drawn() -> None:
    scene = Scene(background=np.zeros((160, 160, 3), np.uint8), actors=(still("a", 200, 0.25), still("b", 100, 0.75)))
    frame, owner = scene.draw(0)
    for label, value in (("a", 200), ("b", 100)):
        mask = scene.mask(owner, [label])
        assert abs(int(mask.sum()) - 40 * 40) <= 2 * 40
        assert np.median(frame[mask]) == value
    assert not scene.mask(owner, []).any()


def test_what_is_in_front_hides_what_is_behind() -> None:
    scene = Scene(background=np.zeros((160, 160, 3), np.uint8), actors=(still("a", 200, 0.5), still(None, 100, 0.5)))
    _, owner = scene.draw(0)
    assert scene.mask(owner, ["a"]).sum() <= 2 * 40


def test_things_move(cutouts: Cutouts) -> None:
    scene = draw_scene(np.random.default_rng(1), cutouts, ["dog"], silent=0, height=96, width=128)
    first, second = (scene.mask(scene.draw(time)[1], ["dog"]) for time in (0.0, 1.0))
    assert first.any()
    assert (first != second).any()


def test_the_sound_is_on_and_off_by_the_second(cutouts: Cutouts) -> None:
    recipe = ClipRecipe(sounding=(("dog",), (), ("dog", "owl"), ()))
    samples = soundtrack(np.random.default_rng(3), cutouts, recipe)
    power = np.square(samples).reshape(4, SAMPLE_RATE).mean(axis=1)
    assert samples.shape == (4 * SAMPLE_RATE,)
    assert power[0] > 30 * power[1]
    assert power[2] > 30 * power[3]


def test_a_clip_and_its_truth(cutouts: Cutouts, tmp_path: Path) -> None:
    recipe = ClipRecipe(sounding=(("dog",), ()), width=160, height=90, fps=8)
    write_clip(np.random.default_rng(0), cutouts, recipe, tmp_path / "000")
    with Clip(tmp_path / "000.mp4") as clip:
        windows = list(clip.windows())
    assert (clip.info.width, clip.info.height, clip.info.frame_count) == (160, 90, 16)
    assert [window.keyframe.frame for window in windows] == [7, 15]
    masks = [np.asarray(Image.open(tmp_path / "000" / "masks" / f"{k:03}.png")) for k in range(2)]
    assert masks[0].shape == (90, 160)
    assert masks[0].any()
    assert not masks[1].any()
    assert json.loads((tmp_path / "000" / "truth.json").read_text())["sounding"] == [["dog"], []]


def test_the_same_seed_draws_the_same(cutouts: Cutouts) -> None:
    def draw() -> tuple[ClipRecipe, bytes]:
        rng = np.random.default_rng([7, 1])
        recipe = draw_recipe(rng, cutouts.labels, seconds=5, most=3, width=160, height=90, fps=10)
        scene = draw_scene(rng, cutouts, recipe.labels, silent=1, height=90, width=160)
        return recipe, scene.draw(1.5)[0].tobytes()

    assert draw() == draw()


def test_training_and_validation_share_no_distractor(cutouts: Cutouts) -> None:
    training, validation = cutouts.split(seed=0, held_out=0.5)
    assert len(training.silent) == len(validation.silent) == 2
    shared = {image.tobytes() for image in training.silent} & {image.tobytes() for image in validation.silent}
    assert not shared


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AV2TError, match=r"sounding holds no class: it needs folders <class>/ with image_\*\.png"):
        Cutouts.load(tmp_path)


def test_a_photograph_without_alpha_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sounding" / "dog"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "image_0.png")
    with pytest.raises(AV2TError, match=r"image_0\.png is not a PNG with an alpha channel"):
        Cutouts.load(tmp_path)
