"""Files in tests/data/earlier_release, written by the code as it was before cards had types: they still load."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from av2t_core.files import file_hash
from av2t_core.training.run_folder import RunFolder
from av2t_core.versions import pointers
from av2t_core.versions.bundle import export_version, import_version
from av2t_core.versions.checkpoint import load_version
from av2t_core.versions.version import installed, resolve
from tests.conftest import EMBEDDED, SHIPPED

WRITTEN = Path(__file__).parents[2] / "data" / "earlier_release"
TUNED = f"{EMBEDDED}-p3-1"
PLAN = {"preset": "tiny", "recipe": {"lr": 0.001, "betas": [0.9, 0.999]}}


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN / "models", tmp_path / "models"))


@pytest.mark.parametrize("name", ["whole-1", TUNED])
def test_a_card_reads_as_it_was_written(models_dir: Path, name: str) -> None:
    card = resolve(name, models_dir).card
    assert card.as_json() == json.loads((models_dir / name / "card.json").read_text())


def test_what_a_training_wrote_onto_the_card_has_its_fields(models_dir: Path) -> None:
    card = resolve(TUNED, models_dir).card
    assert (card.preset, card.feature, card.loads_onto, card.project) == ("tiny", "mul", EMBEDDED, 3)
    assert (card.verdict and card.verdict.sentence) == "It is better."
    assert (card.metrics and card.metrics.after) == {"iou": 0.75, "sounding_iou": None}
    assert [(clip.use, clip.sha256, clip.reason) for clip in card.clips] == [
        ("training", "0" * 64, None),
        ("held out", "1" * 64, None),
        ("left out", None, "it was cancelled"),
    ]
    assert card.calibration == resolve(EMBEDDED).card.calibration


def test_a_version_loads_and_has_all_its_files(models_dir: Path) -> None:
    loaded = load_version(resolve(TUNED, models_dir), torch.device("cpu"))
    assert loaded.model.projector.audio_proj.bias.tolist() == [7.0] * 256
    whole = resolve("whole-1", models_dir)
    assert [path.name.partition("-")[0] for path, _ in whole.stored_files] == [
        "frozen",
        "weights.safetensors",
        "replay.safetensors",
    ]
    assert [file_hash(path) for path, _ in whole.stored_files] == [sha256 for _, sha256 in whole.stored_files]
    assert [version.name for version in installed(models_dir)] == [TUNED, "whole-1", *SHIPPED]


def test_a_projects_pointer_is_read_and_can_be_changed(models_dir: Path) -> None:
    assert pointers.read(models_dir, 3) == pointers.Pointer(current=TUNED, history=(EMBEDDED,))
    assert pointers.rollback(models_dir, 3) == EMBEDDED


def test_a_bundle_comes_in_and_goes_out_the_same(tmp_path: Path) -> None:
    version, new = import_version(WRITTEN / "bundle.zip", tmp_path)
    assert (version.name, new) == (TUNED, True)
    export_version(version, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (WRITTEN / "bundle.zip").read_bytes()


def test_a_training_goes_on_in_its_folder(tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(WRITTEN / "run", tmp_path / "run")))
    with run.alone(PLAN):
        state = run.load()
    assert state is not None
    assert (state["position"].epoch, state["position"].step, state["position"].best_miou) == (1, 2, 0.5)
    assert state["trained"]["projector.weight"].tolist() == [7.0, 7.0]
    assert state["optimizer"]["param_groups"][0]["lr"] == 1e-3
    assert run.best().keys() == load_file(WRITTEN / "run" / "best.safetensors").keys()
    assert [entry["loss"] for entry in run.entries()] == [0.5, 0.5]
