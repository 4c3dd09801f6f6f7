"""The recipe of `tiny`, all its stages, on a few steps with the project's own cut-outs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from av2t_core.data.cutouts import Cutouts
from av2t_core.model.presets import PRESETS
from av2t_core.prediction.calibration import Calibration
from av2t_core.prediction.predictor import Predictor
from av2t_core.pretraining.imagenet_weights import imagenet_weights
from av2t_core.pretraining.tiny_recipe import STAGES, TinyRecipe, keep_version, train_tiny
from av2t_core.training.replay import replay_of
from av2t_core.versions.version import resolve
from tests.conftest import EMBEDDED, wait_until
from tests.up import runs

CUTOUTS = Path(__file__).parents[2] / "data" / "cutouts"
STEPS = 4
SHORT = TinyRecipe(
    audio_steps=STEPS,
    image_steps=2,
    trunk_steps=2,
    joint_steps=(1, 1),
    settle_steps=(1, 1, 1),
    sizes=(64, 96),
    batch=2,
    checkpoint_steps=2,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    train_tiny(Cutouts.load(CUTOUTS), out, recipe=SHORT, processes=2)
    return out


def test_every_stage_leaves_its_result(run: Path) -> None:
    for stage in STAGES:
        state = torch.load(run / f"{stage}.pt", weights_only=True)
        assert all(tensor.isfinite().all() for tensor in state.values() if tensor.is_floating_point())
    assert not list(run.glob("*.checkpoint"))


def test_the_result_becomes_a_model_version(run: Path) -> None:
    directory = run / "tiny-test"
    keep_version(Cutouts.load(CUTOUTS), run, recipe=SHORT, directory=directory, frames=4, clips=2, replayed_clips=1)
    before = run / "tiny-test-held-out"
    keep_version(
        Cutouts.load(CUTOUTS), run, recipe=SHORT, directory=before, settled=False, frames=4, clips=2, replayed_clips=1
    )
    assert (before / "weights.safetensors").read_bytes() != (directory / "weights.safetensors").read_bytes()
    card = json.loads((directory / "card.json").read_text())
    assert card["labels"] == list(Cutouts.load(CUTOUTS).labels)
    assert set(card["metrics"]) >= {"single_iou", "multi_iou", "multi_all_objects_iou", "silent_false_masks"}
    predictor = Predictor.load("tiny-test", "cpu", models_dir=run)
    assert predictor.model_version == "tiny-test"
    assert predictor.calibration == Calibration.of(resolve("tiny-test", run).card)
    replayed = replay_of(resolve("tiny-test", run))
    assert replayed is not None
    assert replayed.v.shape == (5, PRESETS["tiny"].config().image_width)
    assert replayed.a.shape == (5, PRESETS["tiny"].config().audio_width)


def test_the_stem_stays_as_imagenet_taught_it_and_the_rest_learns(run: Path) -> None:
    learned = imagenet_weights().trunk_for_sam
    settled = torch.load(run / "settle.pt", weights_only=True)
    for place in ("model.segmenter.sam.image_encoder.trunk", "image_encoder.trunk"):
        for key, tensor in learned.items():
            same = torch.equal(settled[f"{place}.{key}"], tensor)
            if key.startswith(("first.", "stem.")):
                assert same
            elif key in ("blocks.11.expand.weight", "blocks.11.project.bias"):
                assert not same


def test_a_version_learns_on(shared: Path, tmp_path: Path) -> None:
    recipe = replace(SHORT, start=EMBEDDED, settle_steps=(0, 0, 1))
    train_tiny(Cutouts.load(shared / "cutouts"), tmp_path, recipe=recipe, processes=2)
    start, onward = load_file(resolve(EMBEDDED).weights), torch.load(tmp_path / "settle.pt", weights_only=True)
    assert set(onward) == set(start)
    differs = {key for key in start if not torch.equal(onward[key].to(start[key].dtype), start[key])}
    assert differs
    assert all(key.startswith("model.") for key in differs)
    for key in differs:  # one step
        torch.testing.assert_close(onward[key], start[key].float(), atol=0.02, rtol=0.05)


def test_a_killed_stage_goes_on_where_it_was(run: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from av2t_core.data.cutouts import Cutouts
from av2t_core.pretraining.imagenet_weights import imagenet_weights
from av2t_core.training.replay import replay_of
from av2t_core.pretraining.tiny_recipe import TinyRecipe, train_tiny
if __name__ == "__main__":
    train_tiny(Cutouts.load(Path({str(CUTOUTS)!r})), Path({str(tmp_path)!r}), recipe={SHORT!r}, stages=["audio"],
               processes=2)
"""
    script = tmp_path / "train.py"
    script.write_text(code)
    # As in the background of a shell, where Ctrl-C is for others: its processes must end with it all the same.
    ignoring = ["env", "--ignore-signal=INT", sys.executable, str(script)]
    process = subprocess.Popen(ignoring, stderr=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "audio.checkpoint").exists, timeout=300, what="a checkpoint")
        started = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not any(map(runs, started)), what="the end of the processes that it had started")
    assert not (tmp_path / "audio.pt").exists()
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    resumed, whole = (torch.load(folder / "audio.pt", weights_only=True) for folder in (tmp_path, run))
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
