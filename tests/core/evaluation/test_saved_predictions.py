from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from av2t_core.data.avsbench import SIZE, DataError, LabelledClip
from av2t_core.evaluation.pictures import check_predictions, prediction_paths, read_probabilities, to_logits


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
