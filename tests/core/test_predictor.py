"""The embedded model on the demo's clips: that it listens, and that the road around it keeps its promises."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from av2t_core.compose.clip import ClipRecipe, write_clip
from av2t_core.compose.cutouts import Cutouts
from av2t_core.errors import ConfigError
from av2t_core.media import Clip, Keyframe, Window
from av2t_core.metrics import mask_iou
from av2t_core.predictor import KeyframePrediction, Predictor, level_dbfs

ROOT = Path(__file__).parents[2]
CUTOUTS = ROOT / "tests" / "data" / "cutouts"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load("tiny", "cpu")


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> list[Window]:
    """A dog and an elephant, both in view all the time: they sound by turns, then neither does."""
    out = tmp_path_factory.mktemp("clip") / "turns"
    recipe = ClipRecipe(sounding=(("dog",), ("elephant",), ()), silent=0, fps=8)
    write_clip(np.random.default_rng(4), replace(Cutouts.load(CUTOUTS), backgrounds=()), recipe, out)
    with Clip(out.with_suffix(".mp4")) as clip:
        return list(clip.windows())


def same(first: KeyframePrediction, second: KeyframePrediction) -> bool:
    return bool((first.mask == second.mask).all()) and abs(first.score - second.score) < 1e-4


def test_what_sounds_is_what_is_masked(predictor: Predictor, windows: list[Window]) -> None:
    dog, elephant, none = predictor.predict(windows)
    assert [o.label for o in dog.objects] == ["dog"]
    assert [o.label for o in elephant.objects] == ["elephant"]
    assert mask_iou(dog.mask, elephant.mask) < 0.1
    assert not none.sounding
    assert not none.mask.any()


def test_the_same_picture_with_another_sound_is_another_mask(predictor: Predictor, windows: list[Window]) -> None:
    swapped = replace(windows[0], audio=windows[1].audio)
    heard, other = predictor.predict([windows[0], swapped])
    assert mask_iou(heard.mask, other.mask) < 0.1


def test_a_window_does_not_depend_on_its_batch(predictor: Predictor, windows: list[Window]) -> None:
    together = list(predictor.predict(windows))
    alone = [prediction for window in windows for prediction in predictor.predict([window])]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))


def test_it_holds_no_more_than_a_batch(windows: list[Window]) -> None:
    predictor = Predictor.load("tiny", "cpu", batch_size=2)
    taken = 0

    def endless() -> Iterator[Window]:
        nonlocal taken
        while True:
            taken += 1
            yield replace(windows[0], keyframe=Keyframe(index=taken, frame=taken, time=float(taken)))

    predictions = predictor.predict(endless())
    for count in range(1, 6):
        assert next(predictions).keyframe.index == count
        assert taken <= count + 1


def test_digital_silence_and_no_sound_are_silent(predictor: Predictor, windows: list[Window]) -> None:
    silent = [
        replace(windows[0], audio=audio) for audio in (np.zeros((2, 16_000), np.float32), np.zeros((1, 0), np.float32))
    ]
    for prediction in predictor.predict(silent):
        assert not prediction.sounding
        assert prediction.objects == ()
        assert prediction.mask.shape == windows[0].image.shape[:2]


def test_a_single_pixel_is_no_problem(predictor: Predictor, windows: list[Window]) -> None:
    [prediction] = predictor.predict([replace(windows[0], image=np.zeros((1, 1, 3), np.uint8))])
    assert prediction.mask.shape == (1, 1)


def test_boxes_enclose_their_masks(predictor: Predictor, windows: list[Window]) -> None:
    for prediction in predictor.predict(windows):
        for found in prediction.objects:
            x, y, width, height = found.box
            rows, columns = np.nonzero(found.mask)
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1) == (width, height)


def test_levels() -> None:
    assert level_dbfs(np.ones((1, 10), np.float32)) == 0
    assert level_dbfs(np.full((2, 10), 0.1, np.float32)) == pytest.approx(-20, abs=1e-4)
    assert level_dbfs(np.zeros((1, 10), np.float32)) == -np.inf


@pytest.mark.parametrize(
    ("device", "sentence"),
    [("gpu", "'gpu' is no device; use auto, cpu, cuda or cuda:0"), ("cuda", "torch sees no GPU")],
)
def test_a_device_that_is_not_there_is_named(device: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # wherever this runs
    with pytest.raises(ConfigError, match=sentence):
        Predictor.load("tiny", device)


def test_the_card_says_what_the_model_knows(predictor: Predictor) -> None:
    card = json.loads((ROOT / "av2t_core" / "weights" / predictor.model_version / "card.json").read_text())
    assert list(predictor.labels) == card["labels"]
    assert card["metrics"]["multi_iou"] > card["metrics"]["multi_all_objects_iou"]
