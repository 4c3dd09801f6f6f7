"""Predictions as pictures: those that are read, and the strips that are drawn."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from av2t_core.data.avsbench import SIZE, DataError, LabelledClip
from av2t_core.evaluation.pictures import (
    check_predictions,
    prediction_paths,
    read_probabilities,
    to_logits,
    write_strip,
)
from av2t_core.evaluation.scores import ClipScores
from av2t_core.prediction.drawing import TINT


def clip(*masks: Path | None) -> LabelledClip:
    return LabelledClip(video="v", category="", split="test", frames=(), masks=masks, sound=Path("v.wav"))


FIVE = clip(*[Path("mask.png")] * 5)


def write(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8) if pixels is None else pixels).save(path)
    return path


def test_frames_are_counted_from_one(tmp_path: Path) -> None:
    assert [path.relative_to(tmp_path).as_posix() for path in prediction_paths(tmp_path, FIVE)] == [
        f"v/{i}.png" for i in range(1, 6)
    ]


def test_what_av2t_predict_wrote_is_found(tmp_path: Path) -> None:
    paths = [write(tmp_path / "v" / "masks" / f"{i:03}.png") for i in range(5)]
    assert prediction_paths(tmp_path, FIVE) == paths
    check_predictions(tmp_path, [FIVE])


def test_frames_without_a_mask_need_no_prediction(tmp_path: Path) -> None:
    first = write(tmp_path / "v" / "1.png")
    labelled = clip(Path("mask.png"), None, None)
    assert prediction_paths(tmp_path, labelled) == [first]
    check_predictions(tmp_path, [labelled])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for i in (1, 2, 4):
        write(tmp_path / "v" / f"{i}.png")
    with pytest.raises(DataError, match=r"v/3\.png is missing \(2 of 5 predictions are\)"):
        check_predictions(tmp_path, [FIVE])
    with pytest.raises(DataError, match="nowhere is no folder"):
        check_predictions(tmp_path / "nowhere", [FIVE])


def test_frames_counted_from_zero_are_refused(tmp_path: Path) -> None:
    """Each would be compared with the truth of its neighbour."""
    for i in range(6):
        write(tmp_path / "v" / f"{i}.png")
    with pytest.raises(DataError, match=r"v/0\.png is one too many: frames are counted from 1"):
        check_predictions(tmp_path, [FIVE])


def test_grey_is_a_probability(tmp_path: Path) -> None:
    greys = np.arange(SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint8)
    assert np.allclose(read_probabilities(write(tmp_path / "p.png", greys)), greys / 255)
    booleans = tmp_path / "1bit.png"
    Image.fromarray(greys > 127).save(booleans)
    assert (read_probabilities(booleans) == (greys > 127)).all()


def test_other_sizes_are_resized_bilinearly(tmp_path: Path) -> None:
    halves = np.zeros((2, 2), np.uint8)
    halves[:, 1] = 255
    found = read_probabilities(write(tmp_path / "p.png", halves))
    assert found.shape == (SIZE, SIZE)
    assert (found == found[0]).all()
    assert found[0, : SIZE // 4].max() == 0
    assert np.allclose(np.diff(found[0, SIZE // 4 : 3 * SIZE // 4]), 2 / SIZE, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.full((4, 4, 3), (255, 0, 0), np.uint8), r"p\.png has colours; a prediction is grey"),
        (np.full((4, 4), 40_000, np.uint16), r"p\.png has more than 8 bits a pixel; a prediction is grey, 0 to 255"),
    ],
)
def test_what_is_no_grey_of_8_bits_is_refused(
    tmp_path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read_probabilities(write(tmp_path / "p.png", pixels))


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_text("a letter")
    with pytest.raises(DataError, match=r"p\.png is no PNG or JPEG picture"):
        read_probabilities(tmp_path / "p.png")


def test_logits_give_the_probabilities_back() -> None:
    greys = np.linspace(0, 1, 256, dtype=np.float32)
    logits = to_logits(greys)
    assert np.isfinite(logits).all()
    assert (np.diff(logits) > 0).all()
    assert ((logits > 0) == (greys > 0.5)).all()
    back = 1 / (1 + np.exp(-logits))
    assert np.allclose(back[1:-1], greys[1:-1], atol=1e-6)
    assert (np.round(back * 255) == np.arange(256))[1:-1].all()


YELLOW = (255, 255, 0)
GREY = (100, 100, 100)


def strip(
    folder: Path, mask: NDArray[np.bool_], truth: NDArray[np.bool_], size: tuple[int, int] = (SIZE, SIZE)
) -> NDArray[np.uint8]:
    """Of a clip of two grey frames of `size` (H, W), of which the first alone has a mask."""
    for name, picture in (("frame", np.full((*size, 3), GREY, np.uint8)), ("truth", truth.astype(np.uint8) * 255)):
        Image.fromarray(picture).save(folder / f"{name}.png")
    clip = LabelledClip(
        video="v",
        category="",
        split="test",
        frames=(folder / "frame.png",) * 2,
        masks=(folder / "truth.png", None),
        sound=folder / "v.wav",
    )
    scores = ClipScores(
        clip=clip,
        ious=(0.25,),
        sounding=(bool(truth.any()),),
        heard=(False,),
        masked=(bool(mask.any()),),
        f_avsbench=0.0,
        f_reference=0.0,
    )
    write_strip(folder / "v.png", scores, mask[None])
    with Image.open(folder / "v.png") as file:
        assert file.mode == "RGB"
        return np.asarray(file)


@pytest.fixture
def left() -> NDArray[np.bool_]:
    """The left half."""
    return np.arange(SIZE)[None] < np.full((SIZE, 1), SIZE // 2)


def test_the_prediction_is_a_tint_and_the_truth_a_contour(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    image = strip(tmp_path, mask=left, truth=~left)
    tinted, plain = image[SIZE // 2, SIZE // 4], image[SIZE // 2, 3 * SIZE // 4]
    assert tuple(plain) == GREY
    mixed = [0.6 * grey + 0.4 * tint for grey, tint in zip(GREY, TINT, strict=True)]
    assert tinted.tolist() == pytest.approx(mixed, abs=1)
    assert tuple(image[SIZE // 2, SIZE // 2 - 1]) == TINT
    assert tuple(image[SIZE // 2, SIZE // 2]) == YELLOW


def test_only_frames_with_a_mask_are_shown_with_a_caption(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    image = strip(tmp_path, mask=left, truth=left)
    assert image.shape[1] == SIZE
    assert image.shape[0] > SIZE
    assert image[SIZE:].max() > 200


def test_a_silent_frame_says_so(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    """By another caption, and without any contour."""
    captions = [
        strip(tmp_path, mask, truth)[SIZE:].tobytes() for mask in (left, ~left & left) for truth in (left, ~left & left)
    ]
    assert len(set(captions)) == 4
    assert not (strip(tmp_path, ~left & left, ~left & left)[:SIZE] != GREY).any()


def test_a_wide_frame_keeps_its_shape(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    """Its mask is of the square at which it was compared, its truth of the frame's own size."""
    truth = np.zeros((90, 180), np.bool_)
    truth[:, :90] = True
    image = strip(tmp_path, mask=left, truth=truth, size=(90, 180))
    assert image.shape[1] == 2 * SIZE
    assert tuple(image[SIZE // 2, SIZE - 1]) == YELLOW
    assert tuple(image[SIZE // 2, SIZE]) == GREY
    assert tuple(image[SIZE // 2, SIZE // 2]) not in (YELLOW, GREY)


def test_a_picture_of_any_shape_gives_a_strip_that_can_be_looked_at(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    assert strip(tmp_path, mask=left, truth=~left, size=(2, 4000)).shape[1] <= 4 * SIZE
