"""NanoDet against what the original says, and its boxes on photographs whose place in the image is known."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou  # type: ignore[import-untyped]

from av2t_core.data.cutouts import read_cutout
from av2t_core.prediction.predictor import Predictor
from av2t_core.pretraining.nanodet_weights import SKIP, picture
from av2t_core.words.finder import SoundingThings
from av2t_core.words.nanodet import Boxes, Detector, _agreed, _distinct
from tests.conftest import ROOT

DATA = ROOT / "tests" / "data"
PLACE = (180, 60)  # x and y of what is seen


@pytest.fixture(scope="module")
def detector() -> Detector:
    finder = Predictor.load("small", "cpu").loaded.finder
    assert isinstance(finder, SoundingThings)
    return finder.detector


def photograph(thing: str, width: int = 480, height: int = 360) -> tuple[Tensor, Tensor]:
    """An image (3, H, W) with the thing on a lawn below the sky, and the box (1, 4) around it."""
    cutout = read_cutout(DATA / "cutouts" / "sounding" / thing / "image_0.png").astype(np.float32)
    image = np.full((height, width, 3), (120, 170, 220), np.float32)
    image[height // 2 :] = (90, 130, 60)
    image = cv2.GaussianBlur(image + np.random.default_rng(0).normal(0, 8, image.shape), (0, 0), 1.5).astype(np.float32)
    (h, w), (x, y) = cutout.shape[:2], PLACE
    image[y : y + h, x : x + w] *= 1 - cutout[..., 3:] / 255
    image[y : y + h, x : x + w] += cutout[..., :3]
    return torch.from_numpy(image.clip(0, 255)).permute(2, 0, 1), torch.tensor([[x, y, x + w, y + h]]).float()


@torch.inference_mode()
def test_it_says_what_the_original_says(detector: Detector) -> None:
    logits, bins = detector.network(torch.from_numpy(picture()))
    with np.load(DATA / "golden" / "nanodet.npz") as original:  # in fp16
        np.testing.assert_allclose(logits[0, ::SKIP].sigmoid(), original["probabilities"], atol=1e-3, rtol=0)
        np.testing.assert_allclose(bins[0, ::SKIP].flatten(1), original["bins"], atol=5e-3, rtol=0)


@pytest.mark.parametrize(("thing", "name"), [("dog", "dog"), ("elephant", "elephant"), ("owl", "bird")])
def test_it_finds_a_thing_by_its_name_and_place(detector: Detector, thing: str, name: str) -> None:
    image, box = photograph(thing)
    [found] = detector.detect([image])
    assert detector.names[int(found.scores[0].argmax())] == name
    assert box_iou(found.boxes[:1], box) > 0.8


def test_images_of_any_sizes_do_not_depend_on_each_other(detector: Detector) -> None:
    wide, tall = photograph("dog")[0], photograph("elephant", 400, 640)[0]
    pixel = torch.zeros(3, 1, 1, dtype=torch.uint8)
    together = detector.detect([wide, tall, pixel, wide / 2])
    for found, image in zip(together, (wide, tall, pixel, wide / 2), strict=True):
        [alone] = detector.detect([image])
        torch.testing.assert_close(found.boxes, alone.boxes, atol=1e-2, rtol=0)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=0)
        size = torch.tensor(image.shape[:0:-1]).repeat(2)
        assert ((found.boxes >= 0) & (found.boxes <= size)).all()
    assert detector.detect([]) == []


def test_every_box_has_a_name_of_the_least_probability(detector: Detector) -> None:
    image, _ = photograph("dog")
    [many], [few] = detector.detect([image], least=0.1), detector.detect([image], least=0.2)
    assert len(many.boxes) > len(few.boxes) > 0
    for found, least in ((many, 0.1), (few, 0.2)):
        sure = found.scores.amax(dim=-1)
        assert (sure >= least).all()
        assert (sure.diff() <= 0).all()


def test_of_boxes_on_one_another_the_surest_is_kept_whatever_their_names() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 1, 10, 11], [20, 0, 30, 10], [5, 5, 5, 9]]).float()
    scores = torch.tensor([[0.3, 0.0], [0.0, 0.5], [0.2, 0.1], [0.9, 0.9]])
    kept = _distinct(boxes, scores)
    assert kept.boxes.tolist() == [[0, 1, 10, 11], [20, 0, 30, 10]]  # and none without an area
    assert kept.scores.tolist() == scores[[1, 2]].tolist()


def test_what_one_view_alone_sees_counts_half() -> None:
    first = Boxes(torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]), torch.tensor([[0.6, 0.1], [0.5, 0.0]]))
    second = Boxes(torch.tensor([[0.0, 0, 10, 12]]), torch.tensor([[0.2, 0.1]]))
    agreed = _agreed([first, second], 0.2)
    torch.testing.assert_close(agreed.boxes, torch.tensor([[0.0, 0, 10, 10.5], [20, 0, 30, 10]]))
    torch.testing.assert_close(agreed.scores, torch.tensor([[0.4, 0.1], [0.25, 0.0]]))
    assert len(_agreed([first, second], 0.3).boxes) == 1
    nothing = Boxes(torch.zeros(0, 4), torch.zeros(0, 2))
    assert len(_agreed([nothing, nothing], 0.1).boxes) == 0
