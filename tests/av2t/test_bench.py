import json
from pathlib import Path

import numpy as np
import pytest

from av2t.__main__ import main
from av2t_core.model import presets
from av2t_core.segmenters.evf_sam1 import EvfSam1
from tests.av2t.test_cli import assert_refused, av2t
from tests.core.clips import Sound, at_rate, tone, write_clip
from tests.core.evaluation.test_benchmark import STAGES
from tests.core.model.micro import SEGMENTERS


def test_the_embedded_model_is_measured_both_ways() -> None:
    measured = av2t("bench", "--plain", "--fine-tune", "--json", "--keyframes", 2, "--device", "cpu")
    assert measured.returncode == 0, measured.stderr
    numbers = json.loads(measured.stdout)
    assert (numbers["model_version"][:5], numbers["device"], numbers["keyframes"]) == ("tiny-", "cpu", 2)
    assert numbers["size"] == [480, 360]
    assert numbers["machine"].keys() == {"cpu", "cores", "threads", "gpu", "torch"}
    assert numbers["loading"].keys() == {"seconds", "peak_mb", "weights_mb"}
    for way in ("fast", "plain"):
        assert tuple(numbers[way]["frames_per_second"]) == (*STAGES, "whole")
        assert all(rate > 0 for rate in numbers[way]["frames_per_second"].values())
        assert numbers[way]["memory_mb"].keys() == {"host_peak", "host_mapped", "device_peak"}
    assert numbers["fine_tuning"]["frames_per_second"] > 0
    assert numbers["fine_tuning"]["memory_mb"]["host_peak"] > 0
    assert (numbers["plain"]["precision"], numbers["plain"]["batch_size"]) == ("fp32", 1)
    rates = [numbers[way]["frames_per_second"]["whole"] for way in ("fast", "plain")]
    assert numbers["ratio"] == pytest.approx(rates[0] / rates[1], rel=1e-3)


def test_a_model_that_finds_things_by_name_is_measured() -> None:
    measured = av2t("bench", "--model", "small", "--keyframes", 3, "--device", "cpu")
    assert measured.returncode == 0, measured.stderr
    assert measured.stdout.startswith("small-")
    for label in ("audio encoder", "detector", "maps of classes", "all else"):
        assert f"\n  {label} " in measured.stdout
    assert "\n  image encoder " not in measured.stdout  # its embedding is of no use here


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", at_rate(5, 2), sounds=[Sound(samples=tone(2))], sound_codec="aac")


def test_a_preset_is_measured_without_its_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clip: Path
) -> None:
    """The paper's, with SAM at the micro model's size."""
    monkeypatch.setitem(EvfSam1.sizes, "micro", SEGMENTERS["evf_sam"])
    monkeypatch.setitem(presets.PRESETS, "micro", presets.Preset(segmenter="evf-sam1", size="micro"))
    command = ["bench", str(clip), "--model", "micro", "--random-weights", "--keyframes", "2", "--device", "cpu"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert text.startswith("micro-random on cpu, 2 keyframes of 64 x 48\n")
    labels = (
        "decoding",
        "image encoder",
        "audio encoder",
        "BEiT-3",
        "SAM's image encoder",
        "mask decoder",
        "masks to native size",
    )
    for label in (*labels, "the whole", "host, peak"):
        assert f"\n  {label} " in text
    assert "plain" not in text
    assert "GPU" not in text
    assert main([*command, "--json"]) == 0
    assert "fine-tuning" not in text
    assert not {"plain", "ratio", "fine_tuning"} & json.loads(capsys.readouterr().out).keys()


def test_what_is_no_video_is_one_line(tmp_path: Path) -> None:
    sound = tmp_path / "notes.mp4"
    sound.write_text("notes")
    assert_refused(av2t("bench", sound), "notes.mp4: is not a video")


def test_a_silent_video_is_one_line(tmp_path: Path) -> None:
    silent = Sound(samples=np.zeros((1, 48_000), np.float32))
    clip = write_clip(tmp_path / "silent.mp4", at_rate(5, 1), sounds=[silent], sound_codec="aac")
    assert_refused(av2t("bench", clip), "silent.mp4: the model hears nothing in it, so that it does not run")


def test_a_preset_that_is_none_is_one_line() -> None:
    assert_refused(av2t("bench", "--model", "sam9", "--random-weights"), "there is no preset 'sam9'")


def test_weights_that_are_not_there_are_missed_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path))
    assert_refused(av2t("bench", "--model", "sam2-l"), "sam2-l")


def test_no_keyframes_are_no_measure() -> None:
    assert_refused(av2t("bench", "--keyframes", "0"), "'0' must be a whole number, 1 or more")
