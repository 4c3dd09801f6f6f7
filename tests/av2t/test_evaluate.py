import json
import subprocess
import sys
from pathlib import Path

CUTOUTS = Path(__file__).parents[1] / "data" / "cutouts"


def av2t(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "av2t", *arguments], capture_output=True, text=True, timeout=300)


def test_composed_clips_are_measured(tmp_path: Path) -> None:
    composed = av2t(
        "compose", str(tmp_path), "--cutouts", str(CUTOUTS), "--clips", "2", "--size", "160x90", "--fps", "8"
    )
    assert composed.returncode == 0, composed.stderr
    measured = av2t("evaluate", str(tmp_path), "--json", "--device", "cpu")
    assert measured.returncode == 0, measured.stderr
    numbers = json.loads(measured.stdout)
    assert (numbers["clips"], numbers["keyframes"]) == (2, 10)
    assert 0 <= numbers["iou_sounding"] <= 1


def test_a_folder_without_clips_is_one_line(tmp_path: Path) -> None:
    measured = av2t("evaluate", str(tmp_path))
    assert measured.returncode == 2
    assert measured.stderr == (
        f"av2t: error: {tmp_path} holds no composed clips; `av2t compose {tmp_path} --cutouts DIR` makes some\n"
    )


def test_a_size_that_is_none_is_one_line(tmp_path: Path) -> None:
    composed = av2t("compose", str(tmp_path), "--cutouts", str(CUTOUTS), "--size", "big")
    assert composed.returncode == 2
    assert "'big' is no size: write WIDTHxHEIGHT in pixels" in composed.stderr


def test_a_name_that_is_a_path_is_refused_before_any_work(tmp_path: Path) -> None:
    trained = av2t("train", str(tmp_path), "--cutouts", str(CUTOUTS), "--name", "../tiny")
    assert trained.returncode == 2
    assert "'../tiny' is no model version" in trained.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_class_is_one_line(tmp_path: Path) -> None:
    composed = av2t("compose", str(tmp_path), "--cutouts", str(CUTOUTS), "--labels", "dog,unicorn")
    assert composed.returncode == 2
    assert "has no unicorn; it has dog, drumkit" in composed.stderr
