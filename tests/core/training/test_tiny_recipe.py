"""The recipe of `tiny`, all its stages, on a few steps with the project's own cut-outs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from av2t_core.compose.cutouts import Cutouts
from av2t_core.predictor import Predictor
from av2t_core.training.tiny import TinyRecipe, keep_version, train_tiny
from tests.conftest import wait_until

CUTOUTS = Path(__file__).parents[2] / "data" / "cutouts"
STEPS = 6
SHORT = TinyRecipe(
    audio_steps=STEPS,
    image_steps=2,
    trunk_steps=2,
    joint_steps=(1, 1),
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
    for stage in ("audio", "image", "trunk", "joint"):
        state = torch.load(run / f"{stage}.pt", weights_only=True)
        assert all(tensor.isfinite().all() for tensor in state.values() if tensor.is_floating_point())
    assert not list(run.glob("*.checkpoint"))


def test_the_result_becomes_a_model_version(run: Path) -> None:
    directory = run / "tiny-test"
    keep_version(Cutouts.load(CUTOUTS), run, recipe=SHORT, directory=directory, frames=4)
    card = json.loads((directory / "card.json").read_text())
    assert card["labels"] == list(Cutouts.load(CUTOUTS).labels)
    assert set(card["metrics"]) >= {"single_iou", "multi_iou", "multi_all_objects_iou", "silent_false_masks"}
    predictor = Predictor.load("tiny-test", "cpu", models_dir=run)
    assert predictor.model_version == "tiny-test"


def test_a_killed_stage_goes_on_where_it_was(run: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from av2t_core.compose.cutouts import Cutouts
from av2t_core.training.tiny import TinyRecipe, train_tiny
if __name__ == "__main__":
    train_tiny(Cutouts.load(Path({str(CUTOUTS)!r})), Path({str(tmp_path)!r}), recipe={SHORT!r}, stages=["audio"],
               processes=2)
"""
    script = tmp_path / "train.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "audio.checkpoint").exists, timeout=300, what="a checkpoint")
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "audio.pt").exists()
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    resumed, whole = (torch.load(folder / "audio.pt", weights_only=True) for folder in (tmp_path, run))
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
