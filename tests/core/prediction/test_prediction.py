import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from av2t_core.errors import AV2TError
from av2t_core.media.clip import ClipInfo, Keyframe
from av2t_core.prediction.folder import PredictionWriter, check_directory
from av2t_core.prediction.objects import Detection
from av2t_core.prediction.predictor import KeyframePrediction


def sounding(index: int) -> KeyframePrediction:
    """A dog of 3 x 2 pixels in a frame of 8 x 6."""
    mask = np.zeros((6, 8), np.bool_)
    mask[2:4, 1:4] = True
    return KeyframePrediction(
        keyframe=Keyframe(index=index, frame=index * 10 + 9, time=index + 0.9),
        image=np.zeros((6, 8, 3), np.uint8),
        level=-20.04,
        presence=0.87654321,
        score=0.75,
        objects=(Detection(names={"dog": 0.9}, score=0.5, mask=mask, number=2),),
        evidence=None,
    )


def silent(index: int) -> KeyframePrediction:
    return KeyframePrediction(
        keyframe=Keyframe(index=index, frame=index * 10 + 9, time=index + 0.9),
        image=np.zeros((6, 8, 3), np.uint8),
        level=-np.inf,
        presence=None,
        score=1.0,
        objects=(),
        evidence=None,
    )


INFO = ClipInfo(
    width=8,
    height=6,
    fps=10.0,
    frame_count=20,
    start=0,
    duration=2.0,
    audible=True,
    step=1.0,
    keyframes=(),
    remarks=("The sound is digital silence throughout: nothing is heard in this clip.",),
)


def write(directory: Path, *predictions: KeyframePrediction, video: str = "clip.mp4") -> None:
    with PredictionWriter(directory) as writer:
        for prediction in predictions:
            writer.add(prediction)
        writer.finish(video, INFO, "tiny-1")


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_the_content_of_prediction_json(tmp_path: Path) -> None:
    write(tmp_path / "out", sounding(0), silent(1))

    assert json.loads((tmp_path / "out/prediction.json").read_text()) == {
        "video": "clip.mp4",
        "width": 8,
        "height": 6,
        "fps": 10.0,
        "frame_count": 20,
        "duration": 2.0,
        "model_version": "tiny-1",
        "names": [],
        "keyframes": [
            {
                "index": 0,
                "frame": 9,
                "time": 0.9,
                "level": -20.0,
                "presence": 0.8765,
                "sounding": True,
                "score": 0.75,
                "mask": "masks/000.png",
                "objects": [{"number": 2, "label": "dog", "score": 0.5, "box": [1, 2, 3, 2]}],
            },
            {
                "index": 1,
                "frame": 19,
                "time": 1.9,
                "level": None,
                "presence": None,
                "sounding": False,
                "score": 1.0,
                "mask": "masks/001.png",
                "objects": [],
            },
        ],
        "remarks": ["The sound is digital silence throughout: nothing is heard in this clip."],
    }


def test_masks_are_grey_of_0_and_255_at_native_size(tmp_path: Path) -> None:
    write(tmp_path, sounding(0), silent(1))

    with Image.open(tmp_path / "masks/000.png") as first, Image.open(tmp_path / "masks/001.png") as second:
        assert (first.mode, first.size) == ("L", (8, 6))
        np.testing.assert_array_equal(np.asarray(first), sounding(0).mask.astype(np.uint8) * 255)
        assert not np.asarray(second).any()


def test_masks_are_numbered_by_place_even_where_windows_begin_late(tmp_path: Path) -> None:
    write(tmp_path, silent(7), silent(8))

    assert names(tmp_path) == ["masks/000.png", "masks/001.png", "prediction.json"]


def test_a_new_prediction_replaces_all_of_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, silent(0), silent(1), silent(2))
    (tmp_path / "overlay.mp4").write_bytes(b"of the old one")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "masks/mine.png").write_bytes(b"mine")

    held = check_directory(tmp_path)
    assert held is not None
    assert held["video"] == "clip.mp4"
    write(tmp_path, sounding(0), video="other.mp4")

    assert names(tmp_path) == ["masks/000.png", "masks/mine.png", "notes.txt", "prediction.json"]
    assert json.loads((tmp_path / "prediction.json").read_text())["video"] == "other.mp4"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, AV2TError, RuntimeError])
def test_an_interrupted_run_leaves_the_folder_as_it_was(tmp_path: Path, interruption: type[BaseException]) -> None:
    write(tmp_path, sounding(0), sounding(1))
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def run() -> None:
        with PredictionWriter(tmp_path) as writer:
            writer.add(silent(0))
            raise interruption("in between")

    with pytest.raises(interruption):
        run()

    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_is_free(tmp_path: Path) -> None:
    assert check_directory(tmp_path / "new/deep") is None


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")

    with pytest.raises(AV2TError, match="is a file; name a folder"):
        check_directory(tmp_path / "out")
    with pytest.raises(AV2TError, match="cannot be written"):
        check_directory(tmp_path / "out/deeper")


@pytest.mark.parametrize("content", ["not json", "[]", '{"something": "else"}'])
def test_a_prediction_json_of_somebody_else_is_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / "prediction.json").write_text(content)

    with pytest.raises(AV2TError, match="is no prediction and is kept"):
        PredictionWriter(tmp_path)
    assert (tmp_path / "prediction.json").read_text() == content
