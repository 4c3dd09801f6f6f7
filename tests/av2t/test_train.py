"""`av2t train` on composed data sets: the model version that it makes, and the same one however it was run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from av2t.__main__ import main
from av2t_core.prediction.predictor import Predictor
from av2t_core.training.replay import replay_of
from av2t_core.versions.checkpoint import build
from av2t_core.versions.version import resolve
from tests import micro_published as published
from tests.av2t.test_cli import assert_refused, av2t
from tests.av2t.test_weights_import import write, write_merges
from tests.conftest import EMBEDDED, wait_until
from tests.core.avsbench_sets import compose_set

RECIPE = ["--epochs", "2", "--batch", "2", "--lr", "1e-3", "--checkpoint-steps", "2", "--device", "cpu"]
STEPS = 2  # of an epoch


@dataclass(frozen=True)
class Run:
    """A training in a folder of its own, AV2T_DATA_DIR."""

    data_dir: Path
    name: str = "mine"

    @property
    def folder(self) -> Path:
        return self.data_dir / "runs" / self.name

    @property
    def entries(self) -> list[dict[str, Any]]:
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def losses(self) -> list[float]:
        return [entry["loss"] for entry in self.entries if "step" in entry]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = load_file(self.data_dir / "models" / self.name / "weights.safetensors")
        return state

    def command(self, root: Path, *options: str) -> list[str]:
        return ["train", str(root), "--layout", "ms3", "--name", self.name, *RECIPE, *options]

    def run(self, root: Path, *options: str) -> None:
        """In this process; one of its own would import torch every time."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AV2T_DATA_DIR", str(self.data_dir))
            assert main(self.command(root, *options)) == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 clips to learn from, 1 to validate on, 1 for the test."""
    return compose_set(tmp_path_factory.mktemp("data") / "ms3", "ms3", 6, shares=(66, 17, 17))


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Without any interruption, with the cache."""
    run = Run(tmp_path_factory.mktemp("whole"))
    run.run(root)
    return run


def largest_difference(one: list[float], other: list[float]) -> float:
    assert len(one) == len(other)
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


# The model version


def test_what_was_trained_is_a_model_version_that_predicts(root: Path, whole: Run) -> None:
    model = build("tiny").model
    assert set(whole.weights) == {f"model.{key}" for key in model.state_dict() if model.is_trained(key)}
    version = resolve("mine", whole.data_dir / "models")
    card = version.card.as_json()
    assert (card["preset"], card["feature"], card["parent"]) == ("tiny", "mul", EMBEDDED)
    assert (card["recipe"]["lr"], card["recipe"]["epochs"], card["recipe"]["start"]) == (1e-3, 2, EMBEDDED)
    assert (card["data"]["layout"], card["data"]["training_clips"], card["data"]["validation_clips"]) == ("ms3", 4, 1)
    epochs = [entry for entry in whole.entries if "val_miou" in entry]
    assert card["metrics"]["val_miou"] == round(max(entry["val_miou"] for entry in epochs), 4)
    [part] = card["parts"]
    frozen = load_file(version.directory.parent / "parts" / part["file"])
    start = load_file(resolve(EMBEDDED).weights)
    assert set(frozen) == {key for key in start if not model.is_trained(key.removeprefix("model."))}
    assert all(torch.equal(tensor, start[key]) for key, tensor in frozen.items())
    predictor = Predictor.load("mine", "cpu", models_dir=whole.data_dir / "models")
    assert predictor.labels == tuple(resolve(EMBEDDED).card.labels)
    # What a training that starts from it is to remember: all of its training's frames, for they are few.
    replayed = replay_of(version)
    assert replayed is not None
    assert replayed.a.shape == (4 * 5, model.config.audio_width)
    assert replayed.v.shape == (4 * 5, model.config.image_width)
    # A training never becomes the default by itself.
    assert resolve("tiny", whole.data_dir / "models").name == EMBEDDED


def test_the_folder_of_the_run_shows_how_it_went(whole: Run) -> None:
    steps = [entry for entry in whole.entries if "step" in entry]
    assert [(entry["epoch"], entry["step"]) for entry in steps] == [(e, s) for e in (1, 2) for s in (1, 2)]
    assert all(entry["loss"] == pytest.approx(entry["bce"] + entry["iou"]) for entry in steps)
    epochs = [entry for entry in whole.entries if "val_miou" in entry]
    for epoch in epochs:
        own = [entry["loss"] for entry in steps if entry["epoch"] == epoch["epoch"]]
        assert epoch["loss"] == pytest.approx(sum(own) / STEPS)
        assert epoch["host_peak_mb"] > 100
    assert [epoch["lr"] for epoch in epochs] == [pytest.approx(1e-3), pytest.approx(5e-4, rel=1e-3)]
    assert list((whole.folder / "tensorboard").glob("events.out.tfevents.*"))
    with Image.open(whole.folder / "curve.png") as curve:
        assert curve.width > 600


def test_a_second_training_of_the_same_name_is_refused_before_any_work(root: Path, whole: Run) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AV2T_DATA_DIR", str(whole.data_dir))
        result = av2t(*whole.command(root))
    assert_refused(result, "a model version is never changed, choose another name")


def test_a_paper_s_preset_learns_from_evf_sam(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the size of the micro models; with its own encoders, activations computed twice, and in bf16."""
    published.install(monkeypatch)
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path / "data"))
    files = {
        "model.safetensors": published.evf_sam(),
        "open_clip_model.safetensors": published.clip_state(),
        "CLAP_weights_2023.pth": published.ms_clap_state(),
    }
    paths = [str(write(tmp_path, name, state)) for name, state in files.items()]
    paths.append(str(write_merges(tmp_path, published.merges())))
    assert main(["weights", "import", "sam2-l", *paths]) == 0
    for name, options in (("with", ["--precision", "bf16"]), ("without", ["--no-adapter", "--feature", "clip"])):
        run = Run(tmp_path / "data", name)
        run.run(root, "--preset", "sam2-l", "--epochs", "1", *options)
        assert all(0 < loss < 10 for loss in run.losses)
        version = resolve(name, run.data_dir / "models")
        assert version.card.parent == "sam2-l-start"
        assert version.card.parts == resolve("sam2-l-start", run.data_dir / "models").card.parts
        assert any(key.startswith("model.adapters.") for key in run.weights) == (name == "with")
        assert all(tensor.dtype == torch.float32 for tensor in run.weights.values())
        Predictor.load(name, "cpu", models_dir=run.data_dir / "models")
    capsys.readouterr()
    assert main(["weights", "list"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("trained from sam2-l-start") == 2
    assert "`av2t weights pull sam2-l`" in listed  # which nobody has pulled yet


# The same result, however it was run


def test_stopped_and_killed_in_the_middle_of_an_epoch_it_goes_on_to_the_same_result(
    root: Path, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """First by Ctrl-C, before there is a checkpoint, then by SIGKILL, between two of them."""
    run = Run(tmp_path / "data")
    monkeypatch.setenv("AV2T_DATA_DIR", str(run.data_dir))
    # A shell may have started the tests with Ctrl-C switched off, which a process inherits.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from av2t.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, *run.command(root)]
    between_checkpoints = lambda: (run.folder / "checkpoint.pt").exists() and len(run.losses) >= 3  # noqa: E731
    for stop, when, status in ((signal.SIGINT, lambda: run.losses, 130), (signal.SIGKILL, between_checkpoints, -9)):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: when() or process.poll() is not None, timeout=300)  # noqa: B023
            process.send_signal(stop)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == status
        assert "step" in run.entries[-1], "it was not stopped in the middle of an epoch"
        assert stop == signal.SIGKILL or stderr == "av2t: stopped\n"
    assert not (run.data_dir / "models" / "mine").exists()
    assert main(run.command(root)) == 0
    assert "going on in epoch " in capsys.readouterr().err
    assert [(e["epoch"], e.get("step")) for e in run.entries] == [(e["epoch"], e.get("step")) for e in whole.entries]
    difference = largest_difference(run.losses, whole.losses)
    print(f"largest difference between the losses of a killed and of a whole training: {difference:.1e}")
    assert difference <= 1e-6
    assert all((run.weights[key] - tensor).abs().max() <= 1e-6 for key, tensor in whole.weights.items())


def test_two_processes_give_the_losses_of_one(root: Path, tmp_path: Path) -> None:
    """With parts of unequal number, a last batch that leaves one process without a clip, and recomputing."""
    one, both = Run(tmp_path / "one"), Run(tmp_path / "both")
    batch = ["--batch", "3", "--epochs", "1"]
    one.run(root, *batch)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "av2t"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AV2T_DATA_DIR", str(both.data_dir))
        patch.setenv("OMP_NUM_THREADS", "1")
        shared = [*command, *both.command(root, *batch, "--accumulate", "4", "--recompute")]
        result = subprocess.run(shared, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("model version mine in") == 1
    difference = largest_difference(both.losses, one.losses)
    print(f"largest difference between the losses of two processes and of one: {difference:.1e}")
    assert difference <= 1e-4
    ious = ([entry["val_miou"] for entry in run.entries if "val_miou" in entry] for run in (both, one))
    assert largest_difference(*ious) <= 1e-3


@pytest.mark.parametrize("options", [["--cache-gb", "0"], ["--accumulate", "2", "--recompute"]])
def test_neither_the_cache_nor_parts_change_what_is_learned(
    root: Path, whole: Run, tmp_path: Path, options: list[str]
) -> None:
    run = Run(tmp_path / "data")
    run.run(root, *options)
    assert largest_difference(run.losses, whole.losses) <= 1e-4
    assert (run.data_dir / "cache").exists() == (options[0] != "--cache-gb")


def test_without_adapters_sam_s_features_come_from_the_cache(root: Path, tmp_path: Path) -> None:
    runs = [Run(tmp_path / name) for name in ("kept", "computed")]
    for run, gigabytes in zip(runs, ("1", "0"), strict=True):
        run.run(root, "--no-adapter", "--cache-gb", gigabytes)
    assert largest_difference(runs[0].losses, runs[1].losses) <= 1e-4
    assert len(list((tmp_path / "kept" / "cache").glob("??/*.safetensors"))) == 2 * 5  # embeddings and features


# What is refused


def test_mistakes_are_one_line_before_any_work(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path / "data"))
    given = ["train", str(root), "--layout", "ms3", "--name"]
    for arguments, message in (
        ([*given, "../tiny"], "'../tiny' is no model version"),
        ([*given, "x", "--preset", "sam2-l"], "`av2t weights pull sam2-l --start` fetches them"),
        ([*given, "x", "--preset", "sam2-l-laion", "--no-adapter"], "there is no preset sam2-l-laion-noadapter"),
        ([*given, "x", "--start", "none-1"], "there is no model version 'none-1'"),
        ([*given, "x", "--device", "cuda:1"], "CUDA_VISIBLE_DEVICES"),
        ([*given, "x", "--lr", "0"], "'0' must be a number above 0"),
        ([*given, "x", "--cache-gb", "-1"], "'-1' must be a number, 0 or more"),
        (["train", str(root), "--layout", "s4", "--name", "x"], "it looks like the layout ms3"),
    ):
        assert_refused(av2t(*arguments), message)
    assert not (tmp_path / "data").exists()


def test_a_missing_file_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path / "data"))
    root = compose_set(tmp_path / "ms3", "ms3", 3, shares=(34, 33, 33))
    lost = next(root.glob("audio_wav/train/*.wav"))
    lost.unlink()
    result = av2t("train", root, "--layout", "ms3", "--name", "x")
    assert_refused(result, f"{root} lacks {lost}: `av2t data check {root} --layout ms3` lists them all")
