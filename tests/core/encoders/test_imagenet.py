"""EfficientNet-Lite0 with the weights of its package, against the original and on the project's own photographs."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from av2t_core.data.cutouts import read_cutout
from av2t_core.encoders.imagenet import CLASSES, LONG_SIDE, STRIDE, ImageNetEncoder
from av2t_core.pretraining.imagenet_weights import imagenet_weights, pictures
from av2t_core.words.things import names
from tests.conftest import ROOT

DATA = ROOT / "tests" / "data"
SIZE = 224
THINGS = {"elephant": [101, 385, 386], "lion": [291], "rooster": [7], "violin": [889]}


@pytest.fixture(scope="module")
def encoder() -> ImageNetEncoder:
    encoder = ImageNetEncoder()
    encoder.load_state_dict(imagenet_weights().whole)
    return encoder


def on_grey(thing: str) -> Tensor:
    """(1, 3, SIZE, SIZE), the whole thing in the middle."""
    [file] = (DATA / "cutouts" / "sounding" / thing).glob("image_*.png")
    cutout = read_cutout(file)
    height, width = cutout.shape[:2]
    side = max(height, width)
    canvas = np.full((side, side, 3), 127, np.uint8)
    place = canvas[(side - height) // 2 :, (side - width) // 2 :][:height, :width]
    place[:] = cutout[..., :3] + ((255 - cutout[..., 3:].astype(np.uint16)) * 127 // 255).astype(np.uint8)
    return torch.from_numpy(cv2.resize(canvas, (SIZE, SIZE))).permute(2, 0, 1)[None]


def test_it_says_what_the_original_says(encoder: ImageNetEncoder) -> None:
    with np.load(DATA / "golden" / "imagenet.npz") as golden:
        expected = golden["log_odds"]
    v = encoder.embedding(encoder(pictures()))
    with torch.inference_mode():
        np.testing.assert_allclose(encoder.classifier(v), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("thing", THINGS)
def test_it_names_photographs(encoder: ImageNetEncoder, thing: str) -> None:
    v = encoder.embedding(encoder.features(on_grey(thing), SIZE))
    assert int(encoder.classes(v).argmax()) in THINGS[thing]


@pytest.mark.parametrize(("left", "right"), [("elephant", "rooster"), ("violin", "lion")])
def test_its_maps_say_where_things_are(encoder: ImageNetEncoder, left: str, right: str) -> None:
    frame = torch.cat([on_grey(left), on_grey(right)], dim=3)
    features = encoder.features(frame)
    for thing, columns in ((left, slice(0, 8)), (right, slice(8, 16))):
        maps = encoder.class_maps(features, torch.tensor(THINGS[thing]))[0]
        assert maps.shape == (len(THINGS[thing]), 8, 16)
        assert maps[:, :, columns].max() == maps.max(), thing


def test_what_is_said_of_a_frame_is_the_mean_over_its_places(encoder: ImageNetEncoder) -> None:
    frames = torch.cat([on_grey("lion"), on_grey("violin")])
    features = encoder.features(frames)
    maps = encoder.class_maps(features)
    assert maps.shape == (2, CLASSES, LONG_SIDE // STRIDE, LONG_SIDE // STRIDE)
    torch.testing.assert_close(maps.mean(dim=(2, 3)).softmax(dim=-1), encoder.classes(encoder.encode(frames)))


def test_frames_have_any_sizes_and_are_independent_of_each_other() -> None:
    torch.manual_seed(0)
    encoder = ImageNetEncoder()
    frames = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in ((1, 1), (90, 160), (160, 90), (2, 400))]
    v = encoder.encode(frames)
    assert v.shape == (4, encoder.width)
    torch.testing.assert_close(v[1:2], encoder.encode(frames[1][None]))
    shapes = [tuple(encoder.features(frame[None]).shape[-2:]) for frame in frames]
    assert shapes == [(16, 16), (9, 16), (16, 9), (1, 16)]


def test_a_larger_side_has_more_places(encoder: ImageNetEncoder) -> None:
    frame = F.pad(on_grey("lion"), (80, 80), value=127)
    assert encoder.features(frame, 320).shape[-2:] == (6, 10)
    assert encoder.features(frame, 640).shape[-2:] == (12, 20)


def test_every_class_has_a_name_of_its_own() -> None:
    every = names("imagenet")
    assert len(set(every)) == CLASSES
    assert [every[index] for index in (7, 291, 889)] == ["cock", "lion", "violin"]
