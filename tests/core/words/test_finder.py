"""Things that are heard and seen under the same name, with the embedded weights: photographs with recordings."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
import torch

from av2t.options import DEMO_CLIPS
from av2t_core.data.cutouts import read_cutout
from av2t_core.evaluation.scores import mask_iou
from av2t_core.finetuning.examples import Outlined, examples_of
from av2t_core.finetuning.fine_tuning import FineTuneRecipe, FineTuning, fit_names
from av2t_core.media.clip import Clip, Keyframe, Window
from av2t_core.media.sound import Sound
from av2t_core.model.inputs import to_device
from av2t_core.prediction.finding import _inside, _tidy
from av2t_core.prediction.predictor import KeyframePrediction, Mask, Predictor, crop
from av2t_core.training.replay import replay_of
from av2t_core.training.run_folder import RunFolder
from av2t_core.versions.checkpoint import load_version, with_names
from av2t_core.versions.saving import save_version
from av2t_core.versions.version import NAMES, resolve
from tests.conftest import ROOT

SOUNDING = ROOT / "tests" / "data" / "cutouts" / "sounding"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load("small", "cpu")


def photograph(thing: str) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], Mask]:
    """A frame (360, 480, 3) with the thing on a lawn below the sky, and its mask."""
    cutout = read_cutout(SOUNDING / thing / "image_0.png").astype(np.float32)
    image = np.full((360, 480, 3), (120, 170, 220), np.float32)
    image[180:] = (90, 130, 60)
    image = cv2.GaussianBlur(image + np.random.default_rng(0).normal(0, 8, image.shape), (0, 0), 1.5).astype(np.float32)
    (height, width), x, y = cutout.shape[:2], 180, 60
    image[y : y + height, x : x + width] *= 1 - cutout[..., 3:] / 255
    image[y : y + height, x : x + width] += cutout[..., :3]
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[y : y + height, x : x + width] = cutout[..., 3] > 127
    return image.clip(0, 255).astype(np.uint8), mask


def recording(thing: str, second: int = 0) -> Sound:
    samples, rate = soundfile.read(SOUNDING / thing / "sound_0.flac", dtype="float32")
    return Sound.alone(np.tile(samples, 5)[None, second * rate : (second + 1) * rate], rate)


def window(seen: str, sound: Sound) -> Window:
    return Window(keyframe=Keyframe(index=0, frame=0, time=0.0), image=photograph(seen)[0], sound=sound)


def found(predictor: Predictor, seen: str, sound: Sound, *names: str) -> KeyframePrediction:
    [keyframe] = predictor.predict([window(seen, sound)], names)
    return keyframe


def test_what_is_heard_and_seen_is_masked_and_named(predictor: Predictor) -> None:
    keyframe = found(predictor, "rooster", recording("rooster"))
    [thing] = keyframe.objects
    assert thing.label == "chicken"
    assert mask_iou(thing.mask, photograph("rooster")[1]) > 0.9
    assert keyframe.presence is not None
    assert keyframe.presence > 0.5


def test_a_thing_that_no_detector_knows_is_placed_by_its_class_map(predictor: Predictor) -> None:
    [thing] = found(predictor, "violin", recording("violin", second=1)).objects
    assert thing.label == "violin"
    assert mask_iou(thing.mask, photograph("violin")[1]) > 0.8


def test_what_is_heard_and_not_seen_has_no_mask(predictor: Predictor) -> None:
    keyframe = found(predictor, "rooster", recording("violin", second=1))
    assert not keyframe.sounding
    assert not keyframe.mask.any()


def test_silence_has_no_mask(predictor: Predictor) -> None:
    keyframe = found(predictor, "rooster", Sound.alone(np.zeros((1, 16_000), np.float32), 16_000))
    assert not keyframe.sounding
    assert keyframe.score == 1


@pytest.mark.parametrize("label", ["rooster", "Birds", "farm animal", "crowing"])
def test_a_thing_is_called_what_the_project_calls_it(predictor: Predictor, label: str) -> None:
    [thing] = found(predictor, "rooster", recording("rooster"), label, "guitar").objects
    assert thing.label == label


def test_what_is_not_asked_for_is_left_out_and_not_taken_for_something_else(predictor: Predictor) -> None:
    assert not found(predictor, "rooster", recording("rooster"), "cat", "dog").sounding


def test_names_that_mean_nothing_are_told(predictor: Predictor) -> None:
    assert predictor.unknown(["dog", "Flux capacitor", "instruments"]) == ["Flux capacitor"]


def test_the_logits_are_those_of_the_mask(predictor: Predictor) -> None:
    windows = [window("rooster", recording("rooster")), window("rooster", recording("violin", second=1))]
    sounding, nothing = predictor.logits(windows, (90, 120))
    assert mask_iou((sounding > 0).numpy(), cv2.resize(photograph("rooster")[1].astype(np.uint8), (120, 90)) > 0) > 0.8
    assert (nothing < 0).all()


def test_batches_do_not_change_what_is_found(predictor: Predictor) -> None:
    windows = [window(thing, recording("rooster")) for thing in ("rooster", "violin", "rooster")]
    alone = [next(predictor.predict([each])) for each in windows]
    together = list(Predictor("small", predictor.loaded, batch_size=3).predict(windows))
    for one, other in zip(alone, together, strict=True):
        assert mask_iou(one.mask, other.mask) > 0.99


def test_a_sound_goes_on_where_it_is_faint(predictor: Predictor) -> None:
    with Clip(DEMO_CLIPS / "cow.mp4") as clip:
        windows = list(islice(clip.windows(), 4))  # in the first it is hardly heard, and in the fourth not at all
    goes_on = list(predictor.predict(windows, ["cow"]))
    alone = [next(predictor.predict([each], ["cow"])) for each in windows]
    assert [each.sounding for each in goes_on] == [True, True, True, False]
    assert [each.sounding for each in alone] == [False, True, True, False]
    # What is clear is not changed.
    assert goes_on[1].objects[0].likelihood == pytest.approx(alone[1].objects[0].likelihood, abs=1e-3)
    one_by_one = Predictor("small", predictor.loaded, batch_size=1).predict(windows, ["cow"])
    assert [each.sounding for each in one_by_one] == [True, True, True, False]


def test_what_came_before_is_only_heard(predictor: Predictor) -> None:
    with Clip(DEMO_CLIPS / "cow.mp4") as clip:
        faint, clear = islice(clip.windows(), 2)
    for index, time, goes_on in ((2, 2.9, True), (2, 3.9, False), (0, 0.9, False)):  # next, far, of another clip
        then = replace(faint, keyframe=Keyframe(index=index, frame=0, time=time))
        [seen] = predictor.predict([clear, then], ["cow"], context=1)
        assert (seen.keyframe, seen.sounding) == (then.keyframe, goes_on)


def test_a_name_that_was_taught_is_found(predictor: Predictor, tmp_path: Path) -> None:
    version = resolve("small")
    loaded = load_version(version, torch.device("cpu"))
    frame, mask = photograph("kettle")
    assert not any(each.label == "kettle" for each in found(predictor, "kettle", recording("kettle")).objects)
    sounds = [(loaded.audio_encoder.encode([recording("kettle", each)])[0], frozenset({"kettle"})) for each in (0, 1)]
    v = loaded.image_encoder.encode(to_device([crop(frame, mask), crop(frame[:, ::-1], mask[:, ::-1])], loaded.device))
    taught = fit_names(["kettle"], sounds, [(each, frozenset({"kettle"})) for each in v], replay_of(version))
    tensors = {f"{NAMES}{key}": tensor for key, tensor in taught.items()}
    card = {"preset": "small", "labels": [], "parent": version.name, "onto_parent": True, "names": ["kettle"]}
    save_version(tmp_path / "small-1-p1-1", card, tensors)
    learned = Predictor.load("small-1-p1-1", "cpu", models_dir=tmp_path)
    assert learned.labels == ("kettle",)
    [thing] = found(learned, "kettle", recording("kettle")).objects
    assert thing.label == "kettle"
    assert mask_iou(thing.mask, mask) > 0.8
    assert [each.label for each in found(learned, "rooster", recording("rooster")).objects] == ["chicken"]
    del loaded
    assert with_names(learned.loaded, ["pot"], taught).namer is not learned.loaded.namer


def test_what_learns_begins_with_the_masks_that_names_give(tmp_path: Path) -> None:
    predictor = Predictor.load("small", "cpu")
    loaded = predictor.loaded
    first = found(predictor, "rooster", recording("rooster"))
    assert not loaded.model.says_something
    sounds = window("rooster", recording("rooster"))
    mask = photograph("rooster")[1]
    thing = Outlined(labels=("chicken",), mask=mask)
    examples = examples_of(loaded, [sounds], {0: mask}, {0: [thing]}, "")
    recipe = FineTuneRecipe(epochs=2, batch=1)
    tuning = FineTuning(loaded, [examples], replay_of(resolve("small")), recipe, RunFolder(tmp_path))
    with closing(tuning.run()) as steps:
        losses = [at.loss for at in steps]
    assert losses[0] < 0.3  # BCE and IoU: the mask is there before anything is learned
    assert losses[1] < 0.3
    assert {name.split(".")[0] for name in tuning.learned} == {"projector", "adapters"}
    assert loaded.model.says_something
    [thing_before], [thing_after] = first.objects, found(predictor, "rooster", recording("rooster")).objects
    assert thing_after.label == "chicken"
    assert thing_after.evidence != thing_before.evidence
    assert mask_iou(thing_after.mask, mask) > 0.85


def keyframes(predictor: Predictor, file: Path, *names: str) -> Iterator[KeyframePrediction]:
    with Clip(file) as clip:
        yield from predictor.predict(clip.windows(), names)


def test_a_voice_masks_nobody_who_is_turned_away(predictor: Predictor, shared: Path) -> None:
    masked = [each.sounding for each in keyframes(predictor, shared / "media" / "video_starts_late.mp4", "person")]
    assert sum(masked) <= 1  # an audience claps, and sometimes somebody talks


def test_both_who_talk_are_masked(predictor: Predictor, shared: Path) -> None:
    counts = [len(each.objects) for each in keyframes(predictor, shared / "media" / "two_speakers.mp4", "man")]
    assert np.median(counts) == 2


def test_a_mask_stays_in_its_box_and_loses_crumbs_and_holes() -> None:
    inside = _inside((10, 20, 30, 40), (100, 50))
    assert inside.sum() == 24 * 24
    assert inside[18:42, 8:32].all()
    mask = np.zeros((100, 100), np.bool_)
    mask[10:60, 10:60] = True
    mask[30:33, 30:33], mask[90, 90] = False, True
    tidy = _tidy(mask)
    assert tidy[10:60, 10:60].all()
    assert tidy.sum() == 2500
