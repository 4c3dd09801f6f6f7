"""The command line as a user runs it: as a process, with the model that ships with the package."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from av2t.__main__ import COMMANDS
from av2t.options import DEMO_CLIPS
from tests.conftest import EMBEDDED, SHIPPED, wait_until
from tests.core.clips import Sound, at_rate, tone, write_clip


def av2t(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "av2t", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def assert_refused(result: subprocess.CompletedProcess[str], message: str) -> None:
    """One line on stderr, exit status 2, nothing on stdout."""
    assert result.stderr.startswith("av2t: error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert (result.returncode, result.stdout) == (2, "")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", at_rate(5, 2), sounds=[Sound(samples=tone(2))], sound_codec="aac")


# The table


def test_help_names_every_command() -> None:
    result = av2t("--help")

    assert result.returncode == 0
    for command in COMMANDS:
        assert f"\n    {command} " in result.stdout


def test_without_a_command_the_help_is_shown() -> None:
    result = av2t()

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: av2t")


def test_version() -> None:
    assert av2t("--version").stdout.startswith("av2t 0.")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    result = av2t(command, "--help")
    assert result.returncode == 0, result.stderr
    assert f"usage: av2t {command}" in result.stdout


@pytest.mark.parametrize("command", ["--help", "backend", "status", "predict", "data"])
def test_what_needs_no_model_does_not_load_torch(command: str) -> None:
    program = (
        "import sys; from av2t.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, command, "--help"], check=True, capture_output=True)


@pytest.mark.parametrize(
    "command",
    [
        *("predict", "evaluate", "scores", "bench", "train", "pretrain", "reproduce", "compose"),
        *("data check", "models list", "models show", "models compare", "weights pull", "weights import"),
    ],
)
def test_a_researchers_command_needs_no_queue(command: str) -> None:
    run_without_worker(*command.split(), "--help")


def test_a_prediction_needs_no_queue(clip: Path, tmp_path: Path) -> None:
    run_without_worker("predict", str(clip), "--out", str(tmp_path / "out"))
    assert (tmp_path / "out/prediction.json").exists()


def run_without_worker(*arguments: str) -> None:
    program = (
        "import sys; from av2t.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        # Without redis, which SAM2 brings by way of iopath and portalocker.
        "assert not {'worker', 'backend', 'rq', 'label_studio_sdk'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)


def test_an_unknown_command() -> None:
    assert_refused(av2t("predcit"), "there is no command 'predcit'; did you mean `av2t predict`?")
    assert_refused(av2t("xyz"), "there are predict, up, ")


def test_an_unknown_option() -> None:
    assert_refused(av2t("predict", "x.mp4", "--outt", "y"), "see `av2t predict --help`")
    assert_refused(av2t("--hepl"), "see `av2t --help`")


# av2t predict


def test_predict_writes_a_prediction(clip: Path, tmp_path: Path) -> None:
    result = av2t("predict", clip, "--out", tmp_path / "out", "--json")

    assert result.returncode == 0
    [caution] = result.stderr.splitlines()
    assert caution == f"av2t: note: {EMBEDDED} is for tests: it knows 51 things, and none of them on real video"
    prediction = json.loads(result.stdout)
    assert prediction == json.loads((tmp_path / "out/prediction.json").read_text())
    assert prediction["video"] == str(clip)
    assert prediction["model_version"].startswith("tiny-")
    assert [(k["index"], k["frame"]) for k in prediction["keyframes"]] == [(0, 5), (1, 9)]
    for keyframe in prediction["keyframes"]:
        with Image.open(tmp_path / "out" / keyframe["mask"]) as mask:
            assert (mask.mode, mask.size) == ("L", (64, 48))
            assert set(np.unique(np.asarray(mask))) <= {0, 255}
    with av.open(str(tmp_path / "out/overlay.mp4")) as overlay:
        assert [stream.type for stream in overlay.streams] == ["video", "audio"]


def test_predict_takes_and_makes_files_whose_names_are_no_utf8(clip: Path, tmp_path: Path) -> None:
    named = clip.rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    out = tmp_path / os.fsdecode(b"r\xe9sultat")
    told = av2t("predict", named, "--out", out)
    assert (told.returncode, told.stdout.splitlines()[-1].count(r"r\udce9sultat/prediction.json")) == (0, 1)
    printed = av2t("predict", named, "--out", out, "--json", "--no-overlay")
    assert "replaces" not in printed.stderr
    for text in (printed.stdout, (out / "prediction.json").read_text(encoding="utf-8")):
        assert json.loads(text)["video"] == str(named)


def test_predict_masks_by_small_where_nothing_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AV2T_MODEL")
    names = ",".join((DEMO_CLIPS / "labels.txt").read_text().split())
    result = av2t("predict", DEMO_CLIPS / "cat.mp4", "--out", tmp_path / "out", "--no-overlay", "--names", names)
    assert result.returncode == 0, result.stderr
    narrator = "goes by what is heard and seen, not by mouths: a narrator may mark somebody in view"
    assert result.stderr == f"av2t: note: {SHIPPED[0]} {narrator}\n"
    prediction = json.loads((tmp_path / "out/prediction.json").read_text())
    assert prediction["model_version"] == SHIPPED[0]
    assert {thing["label"] for each in prediction["keyframes"] for thing in each["objects"]} == {"cat"}


def test_predict_tells_a_person_what_it_found_and_replaced(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", at_rate(5, 2))
    out = tmp_path / "out"
    out.mkdir()
    (out / "prediction.json").write_text('{"video": "older.mp4", "keyframes": []}')
    result = av2t("predict", clip, "--out", "out", "--no-overlay", cwd=tmp_path)

    assert result.returncode == 0
    assert (
        result.stdout
        == "2 keyframes, something sounds in 0 of them\nwritten: out/prediction.json, out/masks, out/sheet.png\n"
    )
    replaced, remark, caution = result.stderr.splitlines()
    assert replaced == "av2t: note: out holds the prediction of older.mp4, which this one replaces"
    assert remark == "av2t: note: The sound is missing: nothing is heard in this clip."
    assert "is for tests" in caution
    assert sorted(path.name for path in out.iterdir()) == ["masks", "prediction.json", "sheet.png"]
    assert json.loads((out / "prediction.json").read_text())["video"] == str(clip)


def test_predict_takes_folders_and_goes_on_where_it_stopped(clip: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "first.mp4").write_bytes(clip.read_bytes())
    (videos / "letter.mp4").write_text("a letter")
    (videos / "notes.txt").write_text("no video")
    other = write_clip(tmp_path / "other.mkv", at_rate(5, 2))
    command = ("predict", "videos", other, "--out", "out", "--no-overlay")
    once = av2t(*command, cwd=tmp_path)
    assert once.returncode == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "letter", "other"]
    assert "letter.mp4: is not a video" in once.stderr
    assert "av2t: 2 videos predicted, 0 done before, 1 failed" in once.stderr
    assert "1 video of 3 could not be predicted" in once.stderr
    assert once.stdout.startswith("videos/first.mp4: 2 keyframes, something sounds in ")
    made = {name: (tmp_path / "out" / name / "prediction.json").stat().st_mtime_ns for name in ("first", "other")}

    write_clip(videos / "letter.mp4", at_rate(5, 1))
    again = av2t(*command, cwd=tmp_path)
    assert again.returncode == 0
    assert "av2t: 1 video predicted, 2 done before, 0 failed" in again.stderr
    assert {name: (tmp_path / "out" / name / "prediction.json").stat().st_mtime_ns for name in made} == made
    assert json.loads((tmp_path / "out/letter/prediction.json").read_text())["video"] == "videos/letter.mp4"


def test_predict_tells_videos_of_one_name_apart(clip: Path, tmp_path: Path) -> None:
    for name in ("a/clip.mp4", "a/clip.mov", "b/clip.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(clip.read_bytes())
    assert_refused(av2t("predict", "a", "b", "--out", "out", cwd=tmp_path), "several videos are called clip.mp4")
    assert av2t("predict", "a", "--out", "out", "--no-overlay", cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip.mov", "clip.mp4"]
    (tmp_path / "none").mkdir()
    assert_refused(av2t("predict", "none", "--out", "out", cwd=tmp_path), "none: has no video")


def test_predict_says_how_sure_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AV2T_MODEL", "small")
    result = av2t("predict", DEMO_CLIPS / "chicken.mp4", "--out", tmp_path, "--no-overlay", "--names", "chicken")
    assert re.search(r"^  chicken: \d+ masks, \d+ % to \d+ % sure$", result.stdout, re.MULTILINE)


def test_predict_refuses_what_is_no_clip(tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("a letter")

    assert_refused(av2t("predict", tmp_path / "no.mp4", "--out", tmp_path / "out"), "no.mp4: there is no such file")
    assert_refused(av2t("predict", tmp_path / "letter.mp4", "--out", tmp_path / "out"), "letter.mp4: is not a video")
    assert not (tmp_path / "out").exists()


def test_predict_refuses_what_it_has_no_model_or_folder_for(clip: Path, tmp_path: Path) -> None:
    assert_refused(av2t("predict", clip, "--out", tmp_path / "out", "--model", "huge-7"), "'huge-7'")
    assert_refused(av2t("predict", clip, "--out", clip), "is a file; name a folder")


def test_predict_takes_names_only_where_the_model_has_none(clip: Path, tmp_path: Path) -> None:
    assert_refused(
        av2t("predict", clip, "--out", tmp_path, "--names", "dog,violin"),
        "has names of its own for what it knows; leave the option out",
    )
    assert_refused(av2t("predict", clip, "--out", tmp_path, "--names", "dog,"), "'dog,' has an empty name")


def test_ctrl_c_leaves_no_half_prediction(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", at_rate(2, 300), sounds=[Sound(samples=tone(300))])
    # Five minutes: it must not have ended by itself before the signal comes.
    out = tmp_path / "out"
    # A shell may have started the tests with Ctrl-C switched off, which a process inherits.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from av2t.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "predict", str(clip), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: list(out.glob(".prediction-*/masks/*.png")) or process.poll() is not None, timeout=300)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)

    assert (process.returncode, stderr) == (130, "av2t: stopped\n")
    assert not list(out.iterdir())


def test_a_reader_that_has_enough_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stdout:
        command = [sys.executable, "-m", "av2t", "predict", "--help"]
        result = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)

    assert result.stderr == ""
