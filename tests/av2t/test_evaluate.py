"""`av2t evaluate` on a small composed data set, with the embedded model and with saved masks."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from av2t.__main__ import main
from av2t.commands.evaluate import MOST_CATEGORIES, ROWS
from av2t_core.data.avsbench import LabelledClip, read_clips
from av2t_core.versions.version import resolve
from tests.av2t.test_cli import assert_refused, av2t
from tests.conftest import wait_until
from tests.core.avsbench_sets import compose_set

NUMBERS = {"clips", "frames", "frames_sounding", "frames_silent", "frames_off_screen", *ROWS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two test clips, one of val and one of train."""
    folder = tmp_path_factory.mktemp("sets") / "ms3"
    return compose_set(folder, "ms3", clips=4, shares=(25, 25, 50), labels=("dog", "owl", "elephant"))


@pytest.fixture(scope="module")
def clips(root: Path) -> list[LabelledClip]:
    return read_clips(root, "ms3", "test")


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory, clips: list[LabelledClip]) -> Path:
    """The truth, saved as a prediction."""
    folder = tmp_path_factory.mktemp("predictions")
    for clip in clips:
        (folder / clip.video).mkdir()
        for index, mask in enumerate(clip.masks):
            assert mask is not None
            shutil.copy(mask, folder / clip.video / f"{index + 1}.png")
    return folder


def test_a_model_is_measured_with_its_own_sound_and_with_anothers(
    root: Path, clips: list[LabelledClip], tmp_path: Path
) -> None:
    overlays = tmp_path / "new" / "overlays"
    command = ["evaluate", root, "--layout", "ms3", "--shuffle-audio", "--device", "cpu", "--json"]
    measured = av2t(*command, "--save-overlays", overlays)
    assert (measured.returncode, measured.stderr) == (0, "")
    numbers = json.loads(measured.stdout)
    assert numbers["model_version"].startswith("tiny-")
    told = {name: numbers[name] for name in ("root", "layout", "split", "predictions", "device", "precision")}
    assert told == {
        "root": str(root),
        "layout": "ms3",
        "split": "test",
        "predictions": None,
        "device": "cpu",
        "precision": "fp32",
    }
    assert list(numbers["sounds"]) == ["own", "shuffled"]
    for scores in numbers["sounds"].values():
        assert scores.keys() == NUMBERS
        assert (scores["clips"], scores["frames"]) == (2, 10)
    assert numbers["sounds"]["shuffled"]["iou_sounding"] < numbers["sounds"]["own"]["iou_sounding"]
    assert sorted(numbers["categories"]) == sorted({clip.category for clip in clips})
    assert all(scores.keys() == NUMBERS for scores in numbers["categories"].values())
    names = [f"{clip.video}{kind}.png" for clip in clips for kind in ("", ".shuffled")]
    assert sorted(path.name for path in overlays.iterdir()) == sorted(names)


def test_saved_masks_are_measured_and_told_in_a_table(
    root: Path, clips: list[LabelledClip], predictions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(root), "--layout", "ms3", "--predictions", str(predictions)]) == 0
    head, counts, empty, columns, *lines = capsys.readouterr().out.splitlines()
    assert head == f"{predictions} on ms3 test of {root}"
    assert counts.startswith("2 clips, 10 frames, ")
    assert (empty, columns.strip()) == ("", "as recorded")
    for label, value in (
        ("mIoU", "1.0000"),
        ("F (AVSBench)", "1.0000"),
        ("F (reference: raw logits)", "1.0000"),
        ("IoU where something sounds", "1.0000"),
        ("false masks in silence", "0.0000"),
    ):
        assert f"  {label:26}  {value}" in lines
    for category in {clip.category for clip in clips}:
        assert any(line.split()[0] == category for line in lines if line)


def test_of_a_model_that_does_not_listen_nothing_falls_and_a_note_says_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded weights, with sight as the only feature."""
    deaf = tmp_path / "models" / "deaf"
    shutil.copytree(resolve("tiny").directory, deaf)
    card = json.loads((deaf / "card.json").read_text())
    (deaf / "card.json").write_text(json.dumps({**card, "feature": "clip"}))
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path))
    command = ["evaluate", str(root), "--layout", "ms3", "--mute", "--clips", "1", "--device", "cpu"]
    assert main([*command, "--model", "deaf"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"deaf on ms3 test of {root}\n1 clip, 5 frames, ")
    assert all("(+0.0000)" in line or line.endswith(" -") for line in text.splitlines()[4:11])
    assert "the IoU hardly falls without sound: this data set can be solved without listening, or the model" in text


def test_many_categories_are_cut_for_a_person(
    root: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same clip under many names, each in a category of its own."""
    shutil.copytree(root, tmp_path / "set")
    table = tmp_path / "set" / "ms3_meta_data.csv"
    header, *rows = table.read_text().splitlines()
    test = next(row for row in rows if row.endswith(",test"))
    video, start, _, split = test.split(",")
    categories = [f"thing{index:02}" for index in range(MOST_CATEGORIES + 2)]
    copies = []
    for category in categories:
        name = f"{video}-{category}"
        copies.append(",".join((name, start, category, split)))
        shutil.copytree(predictions / video, tmp_path / "predictions" / name)
        masks = tmp_path / "set" / "gt_masks" / "test"
        shutil.copytree(masks / video, masks / name)
        for mask in (masks / name).iterdir():
            mask.rename(mask.with_name(mask.name.replace(video, name)))
    table.write_text("\n".join([header, *copies, ""]))
    command = ["evaluate", str(tmp_path / "set"), "--layout", "ms3", "--predictions", str(tmp_path / "predictions")]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {category}  1 " in text for category in categories[:MOST_CATEGORIES])
    assert categories[MOST_CATEGORIES] not in text
    assert text.endswith("\n  and 2 more, which --json has\n")


def test_a_part_of_the_clips_is_spread_over_the_split(
    root: Path, predictions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wanted, measured in ((1, 1), (2, 2), (99, 2)):
        command = ["evaluate", str(root), "--layout", "ms3", "--predictions", str(predictions), "--json"]
        assert main([*command, "--clips", str(wanted)]) == 0
        assert json.loads(capsys.readouterr().out)["sounds"]["own"]["clips"] == measured


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "sam9"], "sam9"),
        (["--layout", "s4"], "has no s4_meta_data.csv, so it is no data set of the layout s4; it looks like"),
        (["--clips", "0"], "'0' must be a whole number, 1 or more"),
        (["--clips", "1", "--shuffle-audio"], "sounds can be shuffled among two clips or more"),
        (["--predictions", "nowhere"], "nowhere is no folder"),
        (["--predictions", "x", "--mute"], "--mute does not go with --predictions"),
        (["--predictions", "x", "--shuffle-audio"], "--shuffle-audio does not go with --predictions"),
        (["--predictions", "x", "--model", "tiny"], "--model does not go with --predictions"),
    ],
)
def test_mistakes_are_told_before_torch_is_loaded(root: Path, arguments: list[str], sentence: str) -> None:
    program = (
        "import sys; from av2t.__main__ import main\nstatus = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\nsys.exit(status)"
    )
    command = [sys.executable, "-c", program, "evaluate", str(root), "--layout", "ms3", *arguments]
    assert_refused(subprocess.run(command, capture_output=True, text=True, check=False), sentence)


def test_files_that_are_missing_are_named_before_any_work(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(root, folder)
    for frame in (folder / "visual_frames").rglob("*_2.png"):
        frame.unlink()
    for wav in (folder / "audio_wav" / "test").iterdir():
        wav.unlink()
    result = av2t("evaluate", folder, "--layout", "ms3")
    assert_refused(result, f"{folder} lacks {folder}/visual_frames/")
    assert "_2.png" in result.stderr
    assert " and 1 more: `av2t data check" in result.stderr
    assert f"`av2t data check {folder} --layout ms3` lists them all" in result.stderr


def test_saved_masks_need_neither_frames_nor_sound(root: Path, predictions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(root, folder)
    shutil.rmtree(folder / "visual_frames")
    shutil.rmtree(folder / "audio_wav")
    command = ["evaluate", str(folder), "--layout", "ms3", "--predictions", str(predictions)]
    assert main(command) == 0
    assert_refused(av2t(*command, "--save-overlays", tmp_path / "overlays"), "visual_frames")


def test_a_folder_that_cannot_be_written_is_one_line(root: Path, predictions: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = ["evaluate", root, "--layout", "ms3", "--predictions", predictions]
    assert_refused(av2t(*command, "--save-overlays", tmp_path / "file"), "file: cannot be written")


def test_a_damaged_picture_is_one_line(
    root: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "predictions"
    shutil.copytree(predictions, damaged)
    picture = next(damaged.rglob("3.png"))
    picture.write_bytes(picture.read_bytes()[:60])
    assert main(["evaluate", str(root), "--layout", "ms3", "--predictions", str(damaged)]) == 2
    assert capsys.readouterr().err.startswith(f"av2t: error: {picture} is damaged")


def test_an_interrupted_evaluation_says_so(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "av2t", "evaluate", str(root), "--layout", "ms3", "--device", "cpu"]
    overlays = tmp_path / "overlays"
    process = subprocess.Popen(
        [*command, "--mute", "--save-overlays", str(overlays)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        wait_until(lambda: overlays.is_dir() and any(overlays.iterdir()), what="the first overlay")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "av2t: stopped\n")
