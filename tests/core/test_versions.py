"""Model versions on disk: found by name, verified, never changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from av2t_core.checkpoint import PARTS, load_version, save_version
from av2t_core.errors import WeightsError
from av2t_core.versions import BUILT_IN, resolve

CPU = torch.device("cpu")
CARD = {"preset": "tiny", "labels": ["dog"], "parent": None}


def make(directory: Path, **card: object) -> Path:
    save_version(directory, {**CARD, **card}, {"model": {"weight": torch.ones(2)}})
    return directory


def test_the_embedded_preset_resolves_to_its_newest_version() -> None:
    version = resolve("tiny")
    assert version.directory.parent == BUILT_IN
    assert version.card["preset"] == "tiny"
    assert resolve(version.name) == version


def test_the_embedded_weights_fit_in_the_package() -> None:
    assert resolve("tiny").weights.stat().st_size <= 25_000_000


def test_own_versions_go_before_built_in_ones(tmp_path: Path) -> None:
    make(tmp_path / "mine-1")
    assert resolve("mine-1", tmp_path).directory == tmp_path / "mine-1"


@pytest.mark.parametrize("name", ["", "../tiny-1", "Tiny", ".hidden", "a/b"])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(WeightsError, match="is no model version"):
        resolve(name)


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    make(tmp_path / "mine-1")
    with pytest.raises(WeightsError, match="there is no model version 'mine-2'; there are mine-1, tiny-"):
        resolve("mine-2", tmp_path)


def test_a_version_is_never_changed(tmp_path: Path) -> None:
    make(tmp_path / "mine-1")
    with pytest.raises(WeightsError, match="a model version is never changed"):
        make(tmp_path / "mine-1")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    weights = make(tmp_path / "mine-1") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="is damaged"):
        load_version(resolve("mine-1", tmp_path), CPU)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    (make(tmp_path / "mine-1") / "weights.safetensors").unlink()
    with pytest.raises(WeightsError, match="is missing"):
        load_version(resolve("mine-1", tmp_path), CPU)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "mine-1")
    with pytest.raises(WeightsError, match="does not fit the preset 'tiny'"):
        load_version(resolve("mine-1", tmp_path), CPU)


def test_a_preset_of_another_release_is_named(tmp_path: Path) -> None:
    make(tmp_path / "mine-1", preset="sam9")
    with pytest.raises(WeightsError, match="the preset 'sam9', which this release does not know; it knows tiny"):
        load_version(resolve("mine-1", tmp_path), CPU)


def test_a_broken_card_is_named(tmp_path: Path) -> None:
    card = make(tmp_path / "mine-1") / "card.json"
    card.write_text(json.dumps({"labels": []}))
    with pytest.raises(WeightsError, match=r"card\.json is no card of a model version: 'preset'"):
        resolve("mine-1", tmp_path)


def test_saving_and_loading_gives_the_same_model(tmp_path: Path) -> None:
    built_in = resolve("tiny")
    loaded = load_version(built_in, CPU)
    parts = {name: getattr(loaded, name).state_dict() for name in PARTS}
    save_version(tmp_path / "copy-1", {k: v for k, v in built_in.card.items() if k != "sha256"}, parts)
    again = load_version(resolve("copy-1", tmp_path), CPU)
    for name in PARTS:
        for key, tensor in getattr(again, name).state_dict().items():
            assert torch.equal(tensor, parts[name][key]), key


def test_names_need_no_torch() -> None:
    code = "import sys; from av2t_core.versions import resolve; resolve('tiny'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
