"""The embedded model on the demo's clips: that it listens, and that the road around it keeps its promises."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from av2t_core.data.augmentation import mix, room, sound_stretch
from av2t_core.data.composed_clip import ClipRecipe, draw_recipe, scene_of, write_clip
from av2t_core.data.cutouts import Cutouts
from av2t_core.encoders import ImageEncoder
from av2t_core.errors import AV2TError, ConfigError, WeightsError
from av2t_core.evaluation.scores import mask_iou
from av2t_core.media.clip import Clip, Keyframe, Window
from av2t_core.media.sound import Sound
from av2t_core.model import presets
from av2t_core.model.av2t_sam import lifted
from av2t_core.prediction.predictor import KeyframePrediction, Predictor, level_dbfs
from tests.core.model.micro import BACKBONES, SEGMENTERS

ROOT = Path(__file__).parents[3]
CUTOUTS = ROOT / "tests" / "data" / "cutouts"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load("tiny", "cpu")


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> list[Window]:
    """A dog and an elephant, both in view all the time: they sound by turns, then neither does."""
    out = tmp_path_factory.mktemp("clip") / "turns"
    recipe = ClipRecipe(in_view=("dog", "elephant"), sounding=(("dog",), ("elephant",), ()), silent=0, fps=8)
    write_clip(np.random.default_rng(4), replace(Cutouts.load(CUTOUTS), backgrounds=()), recipe, out)
    with Clip(out.with_suffix(".mp4")) as clip:
        return list(clip.windows())


def same(first: KeyframePrediction, second: KeyframePrediction) -> bool:
    return bool((first.mask == second.mask).all()) and abs(first.score - second.score) < 1e-4


def test_loading_imports_no_compiler() -> None:
    """Which would take longer, and more memory, than all of the model."""
    code = (
        "import sys; from av2t_core.prediction.predictor import Predictor; Predictor.load('tiny', 'cpu');"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_sounds_is_what_is_masked(predictor: Predictor, windows: list[Window]) -> None:
    dog, elephant, none = predictor.predict(windows)
    assert [o.label for o in dog.objects] == ["dog"]
    assert [o.label for o in elephant.objects] == ["elephant"]
    assert mask_iou(dog.mask, elephant.mask) < 0.1
    assert not none.sounding
    assert not none.mask.any()


def test_the_same_picture_with_another_sound_is_another_mask(predictor: Predictor, windows: list[Window]) -> None:
    swapped = replace(windows[0], sound=windows[1].sound)
    heard, other = predictor.predict([windows[0], swapped])
    assert mask_iou(heard.mask, other.mask) < 0.1


def test_a_window_does_not_depend_on_its_batch(predictor: Predictor, windows: list[Window]) -> None:
    together = list(predictor.predict(windows))
    alone = [prediction for window in windows for prediction in predictor.predict([window])]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))


def test_it_holds_no_more_than_two_batches(windows: list[Window]) -> None:
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
        assert taken <= count + 1 + 3  # a batch of 2, one read ahead, and the window that is being decoded
    predictions.close()


def test_it_keeps_to_its_own_names(predictor: Predictor, windows: list[Window]) -> None:
    found = [thing.label for prediction in predictor.predict(windows, ["violin"]) for thing in prediction.objects]
    assert found == ["dog", "elephant"]


def test_digital_silence_and_no_sound_are_silent(predictor: Predictor, windows: list[Window]) -> None:
    zeros = Sound.alone(np.zeros((2, 16_000), np.float32), 16_000)
    nothing = Sound(samples=np.zeros((1, 0), np.float32), rate=0)
    for prediction in predictor.predict([replace(windows[0], sound=sound) for sound in (zeros, nothing)]):
        assert not prediction.sounding
        assert prediction.objects == ()
        assert prediction.mask.shape == windows[0].image.shape[:2]


def test_what_has_ended_and_still_echoes_does_not_sound(predictor: Predictor) -> None:
    cutouts = replace(Cutouts.load(CUTOUTS), backgrounds=())
    windows = []
    for index in range(16):
        rng = np.random.default_rng([5, 122 + index])
        recipe = draw_recipe(rng, cutouts.labels, seconds=1, most=3, width=480, height=270, fps=8)
        image, _ = scene_of(rng, cutouts, recipe).draw(0.9)
        once = mix(rng, [sound_stretch(rng, cutouts.sounds[recipe.in_view[0]][0], 1)], 16_000, noise=0)
        echo = room(rng, np.concatenate([once, np.zeros_like(once)]))[None, 16_000:]
        keyframe = Keyframe(index=index, frame=index, time=float(index))
        windows.append(Window(keyframe=keyframe, image=image, sound=Sound.alone(echo, 16_000)))
    for prediction in predictor.predict(windows):
        assert not prediction.sounding
        assert prediction.presence is not None
        assert prediction.score == 1 - prediction.presence > 0.5


def test_a_single_pixel_is_no_problem(predictor: Predictor, windows: list[Window]) -> None:
    [prediction] = predictor.predict([replace(windows[0], image=np.zeros((1, 1, 3), np.uint8))])
    assert prediction.mask.shape == (1, 1)


def test_boxes_enclose_their_masks(predictor: Predictor, windows: list[Window]) -> None:
    for prediction in predictor.predict(windows):
        for found in prediction.objects:
            x, y, width, height = found.box
            rows, columns = np.nonzero(found.mask)
            assert [int(columns.min()), int(rows.min())] == [x, y]
            assert [int(columns.max()) + 1, int(rows.max()) + 1] == [x + width, y + height]


def test_what_is_less_probable_than_wanted_is_left_out(predictor: Predictor, windows: list[Window]) -> None:
    scores = [thing.score for prediction in predictor.predict(windows) for thing in prediction.objects]
    assert len(scores) >= 2
    choosy = Predictor("choosy", predictor.loaded, calibration=predictor.calibration, least_score=max(scores))
    kept = list(choosy.predict(windows))
    assert [thing.score for prediction in kept for thing in prediction.objects] == [max(scores)]
    for prediction in kept:
        assert prediction.sounding == bool(prediction.mask.any()) == bool(prediction.objects)
        if prediction.evidence is not None and not prediction.sounding:
            assert prediction.presence is not None
            assert prediction.score == 1 - prediction.presence


def test_a_quieter_second_than_wanted_is_not_looked_at(predictor: Predictor, windows: list[Window]) -> None:
    deaf = Predictor("deaf", predictor.loaded, silence_dbfs=0)
    for prediction in deaf.predict(windows):
        assert (prediction.sounding, prediction.presence, prediction.evidence) == (False, 0, None)
        assert -90 < prediction.level < 0


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


class Hungry:
    """An image encoder for which memory runs out in batches larger than `most`: really, but for the amount."""

    def __init__(self, encoder: ImageEncoder, most: int) -> None:
        self.width, self.encoder, self.most = encoder.width, encoder, most
        self.sizes: list[int] = []

    def encode(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.most:
            torch.empty(1 << 50)
        return self.encoder.encode(images)


def hungry(most: int) -> tuple[Predictor, Hungry]:
    predictor = Predictor.load("tiny", "cpu", batch_size=8)
    encoder = Hungry(predictor.loaded.image_encoder, most)
    predictor.loaded = replace(predictor.loaded, image_encoder=encoder, namer=None)
    return predictor, encoder


def test_a_batch_that_does_not_fit_is_halved_and_the_size_kept(predictor: Predictor, windows: list[Window]) -> None:
    small, encoder = hungry(2)
    found = list(small.predict(windows[:2] * 6))
    assert all((a.mask == b.mask).all() for a, b in zip(found, predictor.predict(windows[:2] * 6), strict=True))
    assert small.batch_size == 2
    assert encoder.sizes == [8, 4, 2, 2, 2, 2, 2, 2]


def test_logits_are_those_behind_the_masks(predictor: Predictor, windows: list[Window]) -> None:
    """At the frames' size, but for the parts that a prediction leaves out; nothing is gated by silence."""
    silent = replace(windows[0], sound=Sound.alone(np.zeros((1, 16_000), np.float32), 16_000))
    dog, elephant, unheard = predictor.logits([*windows[:2], silent], (270, 480))
    for logits, prediction in zip((dog, elephant), predictor.predict(windows[:2]), strict=True):
        assert mask_iou((logits > 0).numpy(), prediction.mask) > 0.97
    assert not torch.equal(unheard, torch.zeros_like(unheard))
    [alone] = predictor.logits([windows[0]], (224, 224))
    assert alone.shape == (224, 224)


def test_a_mask_reaches_down_from_a_low_peak_and_no_further_from_a_high_one() -> None:
    high, low, none = lifted(torch.tensor([[[5.0, 2.0, -1.0]], [[1.0, -1.5, -2.5]], [[-0.1, -1.0, -2.0]]]), 3.0)
    assert high.tolist() == [[5.0, 2.0, -1.0]]
    assert low.tolist() == [[3.0, 0.5, -0.5]]
    assert (none < 0).all()


def test_only_the_embedded_model_s_masks_reach() -> None:
    """The published models' are those of the reference."""
    assert {name for name, preset in presets.PRESETS.items() if preset.mask_reach} == {"tiny", "tiny-noadapter"}


def test_logits_keep_within_memory_as_predictions_do(predictor: Predictor, windows: list[Window]) -> None:
    small, encoder = hungry(2)
    found = list(small.logits(windows[:2] * 6, (60, 60)))
    assert all(
        torch.allclose(a, b, atol=1e-3) for a, b in zip(found, predictor.logits(windows[:2] * 6, (60, 60)), strict=True)
    )
    assert encoder.sizes == [8, 4, 2, 2, 2, 2, 2, 2]


def test_memory_that_is_too_small_for_one_keyframe_is_said(windows: list[Window]) -> None:
    small, encoder = hungry(0)
    with pytest.raises(AV2TError, match=r"one keyframe of 480 x 270 pixels needs more memory than cpu has left"):
        list(small.predict(windows[:2] * 6))
    assert encoder.sizes == [8, 4, 2, 1]


@pytest.fixture
def micro_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's presets at the micro model's size, behind CLIP and MS-CLAP of full size, all with drawn weights."""
    for backbone, name in (("evf_sam", "evf-sam1"), ("evf_sam2", "evf-sam2")):
        monkeypatch.setitem(presets.segmenter(name).sizes, "micro", SEGMENTERS[backbone])  # type: ignore[index]
        monkeypatch.setitem(presets.PRESETS, backbone, presets.Preset(segmenter=name, size="micro"))


@pytest.mark.usefixtures("micro_presets")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_published_presets_take_any_clip(backbone: str, windows: list[Window]) -> None:
    """Frames of several sizes, none of them square, in one batch; stereo beside mono, at other rates."""
    predictor = Predictor.random(backbone, "cpu", precision="fp32")
    rng = np.random.default_rng(0)
    sounds = [
        Sound.alone(rng.normal(0, 0.1, (channels, rate)).astype(np.float32), rate)
        for channels, rate in ((1, 16_000), (2, 48_000))
    ]
    wide, tall = np.zeros((90, 160, 3), np.uint8), rng.integers(0, 255, (200, 100, 3), np.uint8)
    mixed = [replace(windows[0], image=image, sound=sound) for image in (wide, tall) for sound in sounds]
    together = list(predictor.predict(mixed))
    assert [prediction.mask.shape for prediction in together] == [(90, 160)] * 2 + [(200, 100)] * 2
    assert all(found.label is None for prediction in together for found in prediction.objects)
    named = [found for prediction in predictor.predict(mixed, ["dog", "violin"]) for found in prediction.objects]
    assert named
    assert all(found.names and set(found.names) <= {"dog", "violin"} for found in named)
    for window, prediction in zip(mixed, together, strict=True):
        [alone] = predictor.predict([window])
        assert abs(alone.score - prediction.score) < 1e-4
        assert mask_iou(alone.mask, prediction.mask) > 0.99


class Alike:
    """CLIP, to which all names look the same."""

    slope = 1.0

    def __init__(self, encoder: ImageEncoder) -> None:
        self.width, self.encode = encoder.width, encoder.encode

    def read(self, names: Sequence[str]) -> Tensor:
        return torch.ones(len(names), self.width)


class Ears:
    """In place of MS-CLAP: what is of 16 kHz sounds like the first name, all else like the second."""

    width, slope = 1024, 10.0

    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        return torch.eye(2, self.width)[[int(sound.rate != 16_000) for sound in sounds]]

    def read(self, names: Sequence[str]) -> Tensor:
        return torch.eye(len(names), self.width)


@pytest.mark.usefixtures("micro_presets")
def test_of_things_that_look_alike_the_one_that_is_heard_is_named(windows: list[Window]) -> None:
    predictor = Predictor.random("evf_sam2", "cpu", precision="fp32")
    encoder = predictor.loaded.image_encoder
    predictor.loaded = replace(predictor.loaded, image_encoder=Alike(encoder), audio_encoder=Ears())
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 48_000)).astype(np.float32)
    two = [replace(windows[0], sound=Sound.alone(noise[:, :rate], rate)) for rate in (48_000, 16_000)]
    for prediction, name in zip(predictor.predict(two, ["bee", "fly"]), ("fly", "bee"), strict=True):
        assert prediction.objects
        assert all(set(found.names) == {name} for found in prediction.objects)


def test_bf16_stays_close_to_fp32(predictor: Predictor, windows: list[Window]) -> None:
    narrow = Predictor.load("tiny", "cpu", precision="bf16")
    for a, b in zip(narrow.predict(windows), predictor.predict(windows), strict=True):
        # Norms that are folded into convolutions leave weights of very different sizes, which bf16 rounds as one: where
        # the model is unsure, a part of a mask may come or go.
        assert abs(a.score - b.score) < 0.05
        assert a.sounding == b.sounding
        assert (a.mask != b.mask).mean() < 0.01
        assert {found.label for found in a.objects} >= {found.label for found in b.objects}


@pytest.mark.parametrize(("precision", "wanted"), [("fp32", "fp32"), ("bf16", "bf16"), ("auto", "fp32")])
def test_precision_is_as_asked_for(precision: str, wanted: str) -> None:
    assert Predictor.load("tiny", "cpu", precision=precision).loaded.precision == wanted


def test_a_precision_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="'fp16' is no precision; use auto, fp32 or bf16"):
        Predictor.load("tiny", "cpu", precision="fp16")


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(WeightsError, match=r"there is no preset 'sam9'; there are small, .*sam2-l, "):
        Predictor.random("sam9", "cpu")
