"""The face detector against what the original says, and on a drawn face whose place in the image is known."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou  # type: ignore[import-untyped]

from av2t_core.prediction.predictor import Predictor
from av2t_core.pretraining.faces_weights import SKIP, picture, together
from av2t_core.words.faces import FaceDetector, _upper_part
from av2t_core.words.finder import SoundingThings
from tests.conftest import ROOT

SKIN, HAIR, DARK = (225, 180, 150), (60, 40, 30), (40, 30, 25)
BACKGROUND = (110, 140, 160)


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    finder = Predictor.load("small", "cpu").loaded.finder
    assert isinstance(finder, SoundingThings)
    return finder.faces


def person(size: int, at: tuple[int, int] = (240, 150), turned_away: bool = False) -> Tensor:
    """An image (3, 360, 480) of a head and shoulders: its face is 1.3 sizes wide, its middle at x, y."""
    image = np.full((360, 480, 3), BACKGROUND, np.float32)

    def ellipse(x: float, y: float, width: float, height: float, colour: tuple[int, int, int]) -> None:
        middle = (int(at[0] + x * size), int(at[1] + y * size))
        cv2.ellipse(image, middle, (int(width * size), int(height * size)), 0, 0, 360, colour, -1, cv2.LINE_AA)

    ellipse(0, 1.9, 1.3, 0.8, (60, 70, 110))  # shoulders
    ellipse(0, 0.8, 0.3, 0.5, (190, 145, 120))  # neck
    ellipse(0, -0.15, 0.78, 1.02, HAIR)
    if not turned_away:
        ellipse(0, 0.05, 0.65, 0.88, SKIN)
        for side in (-0.28, 0.28):
            ellipse(side, -0.1, 0.13, 0.06, (245, 245, 240))
            ellipse(side, -0.1, 0.055, 0.06, DARK)
            ellipse(side, -0.27, 0.16, 0.035, HAIR)  # brow
        ellipse(0, 0.18, 0.08, 0.17, (205, 155, 125))  # nose
        ellipse(0, 0.28, 0.13, 0.05, (180, 125, 105))
        ellipse(0, 0.52, 0.25, 0.08, (170, 70, 70))  # mouth
    blurred = cv2.GaussianBlur(image, (0, 0), size * 0.03)
    noisy = blurred + np.random.default_rng(0).normal(0, 4, image.shape)
    return torch.from_numpy(noisy.clip(0, 255).astype(np.float32)).permute(2, 0, 1)


def face_of(size: int, at: tuple[int, int] = (240, 150)) -> Tensor:
    """The box (1, 4) from the brows to the chin."""
    x, y = at
    return torch.tensor([[x - 0.65 * size, y - 0.4 * size, x + 0.65 * size, y + 0.93 * size]])


@torch.inference_mode()
def test_it_says_what_the_original_says(detector: FaceDetector) -> None:
    said = together(*detector.network(torch.from_numpy(picture())))[::SKIP]
    with np.load(ROOT / "tests" / "data" / "golden" / "faces.npz") as original:
        np.testing.assert_allclose(said[:, 0], original["said"][:, 0], atol=1e-2, rtol=0)
        np.testing.assert_allclose(said[:, 1:], original["said"][:, 1:], atol=0.5, rtol=0)  # weights may be in fp16


@pytest.mark.parametrize("size", [30, 60, 80])
def test_it_finds_a_face_and_its_mouth(detector: FaceDetector, size: int) -> None:
    [found] = detector.detect([person(size)])
    assert len(found.scores) == 1
    assert box_iou(found.boxes, face_of(size)) > 0.6
    x, y = found.mouths[0].tolist()
    assert abs(x - 240) < 0.2 * size
    assert abs(y - 150 - 0.52 * size) < 0.3 * size


def test_it_finds_no_face_of_a_person_turned_away(detector: FaceDetector) -> None:
    assert len(detector.detect([person(60, turned_away=True)])[0].boxes) == 0


def test_a_face_too_small_in_the_whole_image_is_found_in_its_persons_box(detector: FaceDetector) -> None:
    size, (x, y) = 9, (300, 200)
    image = person(size, (x, y))
    persons = torch.tensor([[x - 1.3 * size, y - 1.2 * size, x + 1.3 * size, y + 8 * size], [20, 20, 60, 120]])
    [whole] = detector.detect([image])
    assert len(whole.boxes) == 0
    found, none = detector.detect_of(image, persons)
    assert box_iou(found.boxes[:1], face_of(size, (x, y))) > 0.5
    assert len(none.boxes) == 0
    assert detector.detect_of(image, persons[:0]) == []


def test_images_of_any_sizes_do_not_depend_on_each_other(detector: FaceDetector) -> None:
    wide, tall, pixel = person(60), person(60)[:, :, 120:360], torch.zeros(3, 1, 1, dtype=torch.uint8)
    together = detector.detect([wide, pixel, tall])
    for found, image in zip(together, (wide, pixel, tall), strict=True):
        [alone] = detector.detect([image])
        torch.testing.assert_close(found.boxes, alone.boxes, atol=1e-2, rtol=0)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=0)
        assert ((found.boxes >= 0) & (found.boxes <= torch.tensor(image.shape[:0:-1]).repeat(2))).all()
    assert [len(found.boxes) for found in together] == [1, 0, 1]
    assert detector.detect([]) == []


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ((100, 100, 150, 300), (85, 92, 165, 172)),  # a third of a standing person's height
        ((0, 0, 480, 360), (24, 0, 456, 360)),  # a person as large as the image
        ((470, 350, 480, 360), (469, 349, 480, 360)),
        ((480, 360, 480, 360), (479, 359, 480, 360)),  # no area: still a pixel
    ],
)
def test_a_persons_head_is_looked_for_in_the_upper_part(
    box: tuple[int, int, int, int], part: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = _upper_part(box, 480, 360)
    assert (left, top, right, bottom) == pytest.approx(part, abs=2)
    assert 0 <= left < right <= 480
    assert 0 <= top < bottom <= 360
