"""Composed scenes, sounds and clips, from the project's own cut-outs."""

import json
import wave
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from av2t_core.data.augmentation import Camera
from av2t_core.data.avsbench import SPLITS
from av2t_core.data.composed_clip import ClipRecipe, draw_recipe, scene_of, soundtrack, write_clip
from av2t_core.data.cutouts import SAMPLE_RATE, Cutouts, read_sound
from av2t_core.data.scene import DRIFT_PERIOD, Actor, Scene, draw_scene
from av2t_core.errors import AV2TError
from av2t_core.media.clip import Clip

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


def test_how_much_of_a_thing_is_visible() -> None:
    actors = (still("a", 200, 0.5), still(None, 100, 0.5), still("b", 50, 0.25), still("c", 50, 5.0))
    shares = Scene(background=np.zeros((160, 160, 3), np.uint8), actors=actors).visible(0)
    assert shares[0] < 0.1
    assert shares[1:] == [1, 1, 0]


def test_what_sounds_is_never_almost_hidden(cutouts: Cutouts) -> None:
    for seed in range(6):
        recipe = ClipRecipe(in_view=("dog", "owl", "kettle"), sounding=((),) * 5, silent=2, width=96, height=64)
        scene = scene_of(np.random.default_rng(seed), cutouts, recipe)
        for second in range(5):
            shares = scene.visible(second + 15 / 16)
            assert min(s for s, actor in zip(shares, scene.actors, strict=True) if actor.label) >= 0.3


def test_things_move(cutouts: Cutouts) -> None:
    scene = draw_scene(np.random.default_rng(1), cutouts, ["dog"], silent=0, height=96, width=128)
    first, second = (scene.mask(scene.draw(time)[1], ["dog"]) for time in (0.0, 1.0))
    assert first.any()
    assert (first != second).any()


def test_the_sound_is_on_and_off_by_the_second(cutouts: Cutouts) -> None:
    recipe = ClipRecipe(in_view=("dog",), sounding=(("dog",), (), ("dog", "owl"), ()))
    samples = soundtrack(np.random.default_rng(3), cutouts, recipe)
    power = np.square(samples).reshape(4, SAMPLE_RATE).mean(axis=1)
    assert samples.shape == (4 * SAMPLE_RATE,)
    assert power[0] > 30 * power[1]
    assert power[2] > 30 * power[3]


def test_a_clip_and_its_truth(cutouts: Cutouts, tmp_path: Path) -> None:
    recipe = ClipRecipe(in_view=("dog",), sounding=(("dog",), ()), width=160, height=90, fps=8)
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
        scene = draw_scene(rng, cutouts, recipe.in_view, silent=1, height=90, width=160)
        return recipe, scene.draw(1.5)[0].tobytes()

    assert draw() == draw()


def test_the_splits_share_nothing_silent_and_no_background(cutouts: Cutouts) -> None:
    pictures = tuple(square(value)[..., :3] for value in range(30))
    parts = [replace(cutouts, backgrounds=pictures).part(split) for split in SPLITS]
    assert [len(part.silent) for part in parts] == [2, 1, 1]
    assert [len(part.backgrounds) for part in parts] == [24, 3, 3]
    for items in ([part.silent for part in parts], [part.backgrounds for part in parts]):
        assert len({image.tobytes() for part in items for image in part}) == sum(map(len, items))


def test_the_last_of_several_is_held_out(cutouts: Cutouts) -> None:
    dog, owl = (cutouts.images[label][0] for label in ("dog", "owl"))
    sounds = (cutouts.sounds["dog"][0], cutouts.sounds["owl"][0])
    several = replace(cutouts, images={**cutouts.images, "dog": (dog, owl)}, sounds={**cutouts.sounds, "dog": sounds})
    for split in SPLITS:
        known = several.part(split)
        assert known.labels == cutouts.labels
        assert known.images["dog"] == (dog,)
        assert known.sounds["dog"] == sounds[:1]

    new = several.part("test", new=True)
    assert new.labels == ("dog",)
    assert (new.images["dog"], new.sounds["dog"]) == ((owl,), sounds[1:])
    only_a_photograph = replace(several, sounds=cutouts.sounds)
    assert only_a_photograph.part("test", new=True).sounds["dog"] == sounds[:1]


def test_a_sound_without_its_thing_in_view(cutouts: Cutouts, tmp_path: Path) -> None:
    recipe = ClipRecipe(in_view=("owl",), sounding=(("dog",), ("owl",)), width=160, height=90, fps=8)
    write_clip(np.random.default_rng(0), cutouts, recipe, tmp_path / "000")
    first, second = (np.asarray(Image.open(tmp_path / "000" / "masks" / f"{k:03}.png")) for k in range(2))
    assert not first.any()
    assert second.any()
    with Clip(tmp_path / "000.mp4") as clip:
        loudness = [float(np.square(window.sound.second).mean()) for window in clip.windows()]
    assert min(loudness) > 1e-5


def test_recipes_have_seconds_of_every_kind(cutouts: Cutouts) -> None:
    rng = np.random.default_rng(0)
    kinds = Counter(
        (len(set(heard) & set(recipe.in_view)), bool(set(heard) - set(recipe.in_view)))
        for recipe in (
            draw_recipe(rng, cutouts.labels, seconds=5, least=2, most=3, width=64, height=64, fps=8) for _ in range(60)
        )
        for heard in recipe.sounding
    )
    assert set(kinds) == {(count, off_screen) for count in (0, 1, 2) for off_screen in (False, True)}


def test_the_background_moves_and_comes_back() -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :20] = 200
    scene = Scene(background=picture, actors=(), drift=(30.0, 0.0))
    frames = [scene.draw(time)[0] for time in (0.0, DRIFT_PERIOD / 2, DRIFT_PERIOD)]
    assert (frames[0] == picture).all()
    assert (frames[1][:, 30:50] == 200).all()
    assert not frames[1][:, 50:].any()
    assert (frames[2] == picture).all()


def test_a_camera_does_what_it_is_told() -> None:
    rng = np.random.default_rng(0)
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 200
    assert (Camera().shoot(rng, picture) == picture).all()
    assert 0 < Camera(blur=2).shoot(rng, picture)[:, 14].mean() < 100
    assert 2 < Camera(noise=5).shoot(rng, np.full_like(picture, 128)).std() < 8
    assert (Camera(quality=5).shoot(rng, picture) != picture).any()


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AV2TError, match=r"sounding holds no class: it needs folders <class>/ with image_\*\.png"):
        Cutouts.load(tmp_path)


def test_a_photograph_without_alpha_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sounding" / "dog"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "image_0.png")
    with pytest.raises(AV2TError, match=r"image_0\.png is not a PNG with an alpha channel"):
        Cutouts.load(tmp_path)
    Image.new("RGBA", (8, 8)).save(folder / "image_0.png")
    with pytest.raises(AV2TError, match=r"image_0\.png is transparent all over"):
        Cutouts.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"a letter", "a picture", "silence"])
def test_a_recording_that_is_none_is_refused(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "sound_0.flac"
    if content == "silence":
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(bytes(2 * SAMPLE_RATE))
    elif content == "a picture":
        Image.new("RGB", (8, 8)).save(path, format="PNG")
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    with pytest.raises(AV2TError, match=r"sound_0\.flac holds no sound that can be decoded and heard"):
        read_sound(path)
