"""`av2t compose` as a user runs it."""

import json
import shutil
from pathlib import Path

import pytest

from av2t.__main__ import main
from av2t_core.data.avsbench import missing_files, read_clips, read_table
from av2t_core.media.clip import Clip
from tests.av2t.test_cli import assert_refused, av2t
from tests.core.avsbench_sets import CUTOUTS


def test_a_data_set(tmp_path: Path) -> None:
    out = tmp_path / "set"
    options = ("--layout", "ms3", "--clips", 3, "--split", "0,50,50", "--labels", "dog,owl", "--seed", 5)
    result = av2t("compose", out, "--cutouts", CUTOUTS, *options)

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"3 clips (train 0, val 2, test 1) in {out}\n"
    assert missing_files(read_table(out, "ms3")) == []
    assert {clip.category for clip in read_clips(out, "ms3", "val")} <= {"dog+owl", "owl+dog"}


def test_options_that_make_no_sense_together(tmp_path: Path) -> None:
    def refused(*options: object, message: str) -> None:
        assert_refused(av2t("compose", tmp_path / "set", "--cutouts", CUTOUTS, *options), message)

    refused("--layout", "s4", "--seconds", 3, message="--seconds does not go with --layout: AVSBench's clips have five")
    refused("--layout", "s4", "--size", "64x64", message="--size does not go with --layout")
    refused("--layout", "ms3", "--fps", 3, message="--fps does not go with --layout")
    refused("--layout", "ms3", "--things", 1, message="--things 1: in ms3 two or more sound by turns")
    refused("--split", "50,25,25", message="--split is about the splits of a data set; it goes with --layout s4 or")
    refused("--held-out", message="--held-out is about the splits of a data set; it goes with")
    refused("--layout", "s4", "--part", "val", message="--part does not go with --layout: a data set has all splits")
    refused("--layout", "s4", "--split", "50,25", message="'50,25' must be the percentages of train, val and test")
    assert not (tmp_path / "set").exists()


def test_a_folder_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file")

    assert main(["compose", out, "--cutouts", str(CUTOUTS), "--layout", "s4"]) == 2
    assert (
        capsys.readouterr().err == f"av2t: error: {out}: cannot be written (Not a directory); choose another folder\n"
    )


def test_clips_with_their_masks(tmp_path: Path) -> None:
    result = av2t("compose", tmp_path, "--cutouts", CUTOUTS, "--clips", 1, "--size", "160x90", "--fps", 8)

    assert (result.returncode, result.stdout) == (0, f"1 clips in {tmp_path}\n")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "000.mp4",
        "000/truth.json",
        *(f"000/masks/{second:03}.png" for second in range(5)),
    }


def test_clips_of_several_sizes_and_rates_and_of_later_classes(tmp_path: Path) -> None:
    cutouts = tmp_path / "cutouts"
    shutil.copytree(CUTOUTS / "sounding" / "dog", cutouts / "later" / "dog")
    options = ("--clips", 8, "--seconds", 1, "--jobs", 2, "--part", "test", "--later")
    result = av2t("compose", tmp_path / "out", "--cutouts", cutouts, *options)

    assert (result.returncode, result.stdout) == (0, f"8 clips in {tmp_path / 'out'}\n")
    shapes = set()
    for path in (tmp_path / "out").glob("*.mp4"):
        with Clip(path) as clip:
            list(clip.windows())
        shapes.add((clip.info.width, clip.info.height, clip.info.frame_count))
    assert len({shape[:2] for shape in shapes}) > 1
    assert len({shape[2] for shape in shapes}) > 1
    assert {json.loads(path.read_text())["in_view"][0] for path in tmp_path.rglob("truth.json")} == {"dog"}


def test_a_size_and_a_class_that_are_none(tmp_path: Path) -> None:
    for options, message in (
        (("--size", "big"), "'big' is no size: write WIDTHxHEIGHT in pixels"),
        (("--labels", "dog,unicorn"), "has no unicorn; it has dog, drumkit"),
    ):
        assert_refused(av2t("compose", tmp_path, "--cutouts", CUTOUTS, *options), message)
    assert not list(tmp_path.iterdir())
