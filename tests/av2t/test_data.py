"""`av2t data check` as a user runs it: what it counts, and every kind of fault by the name of its file."""

import json
import wave
from pathlib import Path

import pytest
from PIL import Image

from av2t.__main__ import main
from tests.av2t.test_cli import av2t
from tests.core.avsbench_sets import compose_set


def resize(path: Path, width: int, height: int) -> None:
    with Image.open(path) as image:
        image.resize((width, height)).save(path)


def cut(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: round(len(whole) * share)])


def write_wav(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(round(seconds * 16_000) * 2))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Clips 0, 1, 3 are of train, 2 of val and 4 of test."""
    return compose_set(tmp_path / "set", "ms3", 5, seed=3)


def test_a_whole_data_set(tmp_path: Path) -> None:
    root = compose_set(tmp_path / "set", "s4", 5)
    result = av2t("data", "check", root, "--layout", "s4")

    assert (result.returncode, result.stderr) == (0, "")
    assert (
        result.stdout
        == f"""\
{root}/s4_meta_data.csv, layout s4

What there is
  split  clips  masks  empty masks
  train  3      3      0
  val    1      5      0
  test   1      5      0

Sizes
  size     frames
  224x224  25

All is well in 5 clips
"""
    )


def test_every_fault_is_told_by_the_name_of_its_file(whole: Path) -> None:
    frames, masks, sounds = whole / "visual_frames", whole / "gt_masks", whole / "audio_wav"
    (frames / "c0000/c0000.mp4_1.png").unlink()
    cut(frames / "c0000/c0000.mp4_2.png", 0.5)
    resize(frames / "c0000/c0000.mp4_3.png", 112, 100)
    (masks / "train/c0001/c0001_1.png").unlink()
    (masks / "train/c0001/c0001_2.png").write_text("a letter")
    resize(masks / "train/c0001/c0001_3.png", 100, 224)
    (sounds / "train/c0001.wav").unlink()
    (sounds / "val/c0002.wav").write_text("a letter")
    write_wav(sounds / "train/c0003.wav", 0)
    resize(frames / "c0004/c0004.mp4_5.png", 320, 240)  # and its mask fits it
    resize(masks / "test/c0004/c0004_5.png", 320, 240)
    write_wav(sounds / "test/c0004.wav", 4)
    with (whole / "ms3_meta_data.csv").open("a") as table:
        table.write("c0003,0,dog+owl,train\nc0003,0,dog+owl,train\n")
    expected = {
        ("visual_frames/c0000/c0000.mp4_1.png", "missing"): "is missing",
        ("visual_frames/c0000/c0000.mp4_2.png", "unreadable"): "is damaged (image file is truncated)",
        ("visual_frames/c0000/c0000.mp4_3.png", "size"): "is 112x100, its clip's other frames 224x224",
        ("gt_masks/train/c0001/c0001_1.png", "missing"): "is missing",
        ("gt_masks/train/c0001/c0001_2.png", "unreadable"): "is no PNG or JPEG picture",
        ("gt_masks/train/c0001/c0001_3.png", "size"): "is 100x224, its frame 224x224",
        ("visual_frames/c0004/c0004.mp4_5.png", "size"): "is 320x240, its clip's other frames 224x224",
        ("audio_wav/train/c0001.wav", "missing"): "is missing",
        ("audio_wav/val/c0002.wav", "unreadable"): "cannot be read as sound",
        ("audio_wav/train/c0003.wav", "unreadable"): "holds no sound that can be decoded",
        ("audio_wav/test/c0004.wav", "short sound"): "ends in second 4 of 5: no sound for the frames after it",
        ("ms3_meta_data.csv", "twice"): "names c0003 3 times",
    }
    result = av2t("data", "check", whole, "--layout", "ms3", "--json")
    told = json.loads(result.stdout)

    assert (result.returncode, result.stderr) == (1, "")
    assert len(told["problems"]) == len(expected)
    assert {(found["file"], found["kind"]): found["problem"] for found in told["problems"]} == expected
    assert told["frame_sizes"] == {"224x224": 31, "112x100": 1, "320x240": 1}
    assert [told["splits"][split]["clips"] for split in ("train", "val", "test")] == [5, 1, 1]
    assert told["splits"]["train"]["masks"] == 23
    assert told["notes"] == ["Not all are 224x224, as AVSBench's are: scores are compared at that size."]

    result = av2t("data", "check", whole, "--layout", "ms3")
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]

    assert result.returncode == 1
    assert all([file, problem] in lines for (file, _), problem in expected.items())
    assert result.stdout.endswith("\n\n12 problems in 7 clips\n")


def test_a_video_in_two_splits(whole: Path) -> None:
    table = whole / "ms3_meta_data.csv"
    table.write_text(table.read_text() + "c0002,0,dog+owl,train\n")
    for folder, suffix in (("gt_masks", ""), ("audio_wav", ".wav")):
        (whole / folder / f"train/c0002{suffix}").symlink_to(whole / folder / f"val/c0002{suffix}")
    result = av2t("data", "check", whole, "--layout", "ms3")

    assert result.returncode == 1
    assert "Problems\n  ms3_meta_data.csv  names c0002 in train and in val\n\n1 problem in 6 clips\n" in result.stdout


def test_what_is_only_good_to_know_is_no_problem(whole: Path) -> None:
    # No clip of val and test, frames and masks of another size, and a mask without anything.
    table = whole / "ms3_meta_data.csv"
    table.write_text("name,start,label,split\nc0000,0,dog+owl,train\n")
    for i in range(1, 6):
        resize(whole / f"visual_frames/c0000/c0000.mp4_{i}.png", 320, 240)
        Image.new("L", (320, 240), 255 * (i > 2)).save(whole / f"gt_masks/train/c0000/c0000_{i}.png")
    result = av2t("data", "check", whole, "--layout", "ms3")

    assert result.returncode == 0
    assert "  train  1      5      2\n  val    0      0      0\n  test   0      0      0\n" in result.stdout
    assert (
        "  320x240  5\n  Not all are 224x224, as AVSBench's are: scores are compared at that size.\n" in result.stdout
    )
    assert result.stdout.endswith("All is well in 1 clip\n")


def test_the_later_release(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("vid,uid,s_min,s_sec,a_obj,split,label\na,a_0_5000,0,0,dog,train,v1s\n")
    own = tmp_path / "v1s/a_0_5000"
    (own / "frames").mkdir(parents=True)
    (own / "labels_rgb").mkdir()
    for i in range(5):
        Image.new("RGB", (64, 48)).save(own / f"frames/{i}.jpg")
    Image.new("RGB", (64, 48), (128, 0, 0)).save(own / "labels_rgb/0.png")
    write_wav(own / "audio.wav", 5)
    result = av2t("data", "check", tmp_path, "--layout", "v1s", "--json")
    told = json.loads(result.stdout)

    assert result.returncode == 0
    assert (told["splits"]["train"], told["notes"]) == ({"clips": 1, "masks": 1, "empty_masks": 0}, [])


def test_mistakes_in_what_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(layout: str, message: str) -> None:
        assert main(["data", "check", str(tmp_path), "--layout", layout]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err

    refused("s4", f"av2t: error: {tmp_path} has no s4_meta_data.csv, so it is no data set of the layout s4\n")
    refused("s5", "argument --layout: invalid choice: 's5'")
    (tmp_path / "s4_meta_data.csv").write_text("name,start,category,split\n")
    refused("s4", "s4_meta_data.csv has no clip of the layout s4\n")
