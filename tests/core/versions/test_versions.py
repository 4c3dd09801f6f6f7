"""Model versions on disk: found by name, verified, never changed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from av2t.__main__ import main
from av2t.remedies import told
from av2t_core.errors import MemoryShortError, WeightsError
from av2t_core.model.presets import PRESETS
from av2t_core.versions.checkpoint import Loaded, build, load_version
from av2t_core.versions.names import fine_tuned_name
from av2t_core.versions.pointers import delete
from av2t_core.versions.saving import save_part, save_version
from av2t_core.versions.version import BUILT_IN, damaged, find, installed, resolve
from tests.conftest import EMBEDDED, SHIPPED

CPU = torch.device("cpu")
CARD = {"preset": "tiny", "labels": ["dog"], "parent": None}


def make(directory: Path, **card: object) -> Path:
    save_version(directory, {**CARD, **card}, {"model.weight": torch.ones(2)})
    return directory


def test_the_embedded_preset_resolves_to_its_newest_version() -> None:
    version = resolve("tiny")
    assert version.directory.parent == BUILT_IN
    assert version.card.preset == "tiny"
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
    with pytest.raises(WeightsError, match="there is no model version 'mine-2'; there are mine-1, small-1, tiny-"):
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


def test_learnt_names_of_something_else_are_refused(tmp_path: Path) -> None:
    parent = resolve(EMBEDDED)
    card = {**CARD, "parent": EMBEDDED, "onto_parent": True, "names": ["horn"]}
    save_version(tmp_path / "mine-1", {**card, "labels": parent.card.labels}, {"names.hearing.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"does not fit the preset 'tiny'.*missing names\.hearing\.bias"):
        load_version(resolve("mine-1", tmp_path), CPU)


def test_a_device_that_is_full_is_no_fault_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In the place of a GPU that others have filled.
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("av2t_core.versions.checkpoint.read_tensors", full)
    make(tmp_path / "mine-1")
    with pytest.raises(MemoryShortError, match="mine-1 needs more memory than cpu has left; free some"):
        load_version(resolve("mine-1", tmp_path), CPU)


def test_a_preset_of_another_release_is_named(tmp_path: Path) -> None:
    make(tmp_path / "mine-1", preset="sam9")
    with pytest.raises(WeightsError, match="the preset 'sam9', which this release does not know; it knows small, tiny"):
        load_version(resolve("mine-1", tmp_path), CPU)


def test_published_weights_that_are_not_there_are_told_how_to_get(tmp_path: Path) -> None:
    make(tmp_path / "sam2-l-start", preset="sam2-l", start=True)
    with pytest.raises(WeightsError) as error:
        resolve("sam2-l", tmp_path)
    assert told(error.value) == (
        f"the weights of sam2-l are not in {tmp_path}: `av2t weights pull sam2-l` fetches them (about 5 GB),"
        " `av2t weights import sam2-l FILE…` takes files that you have"
    )


def test_a_check_needs_no_weights_to_be_read(tmp_path: Path) -> None:
    resolve("tiny").check()
    make(tmp_path / "mine-1").joinpath("weights.safetensors").write_bytes(b"damaged")
    resolve("mine-1", tmp_path).check()
    (tmp_path / "mine-1" / "weights.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"mine-1/weights\.safetensors, of model version mine-1, is missing"):
        resolve("mine-1", tmp_path).check()
    make(tmp_path / "sam2-l-start", preset="sam2-l", start=True)
    with pytest.raises(WeightsError, match="EVF-SAM alone, a start for training") as caught:
        resolve("sam2-l-start", tmp_path).check()
    assert "`av2t weights pull sam2-l`" in told(caught.value)


def test_a_remedy_fits_where_the_version_is_from(tmp_path: Path) -> None:
    assert resolve("tiny").remedy == "install the package again"
    make(tmp_path / "mine-1")
    assert resolve("mine-1", tmp_path).remedy == "bring it back from a copy"
    make(tmp_path / "sam2-l-ms3", preset="sam2-l", source={"command": "av2t weights pull sam2-l"})
    assert resolve("sam2-l", tmp_path).remedy == f"delete {tmp_path / 'sam2-l-ms3'} and run `av2t weights pull sam2-l`"


def test_what_is_installed(tmp_path: Path) -> None:
    assert [version.name for version in installed(tmp_path / "none")] == SHIPPED
    make(tmp_path / "mine-1")
    (tmp_path / "parts").mkdir()
    assert [version.name for version in installed(tmp_path)] == ["mine-1", *SHIPPED]


WRONG: dict[str, dict[str, object]] = {
    "preset: Field required": {"preset": ...},
    "verdict: Input should be an object": {"verdict": "better"},
    "verdict.sentence: String should have at most 10000": {"verdict": {"better": True, "sentence": "x" * 10_001}},
    "verdict.better: Input should be a valid boolean": {"verdict": {"better": "yes", "sentence": "It is better."}},
    "unexpected end of hex escape": {"verdict": {"better": True, "sentence": "\ud800"}},
    "metrics: Input should be an object": {"metrics": [1]},
    "metrics.after.iou: Input should be a valid number": {"metrics": {"after": {"iou": "high"}}},
    "data.clips.0: Input should be an object": {"data": {"clips": ["a"]}},
    "labels.0: Input should be a valid string": {"labels": [1]},
    "project: Input should be a valid integer": {"project": "3"},
    "created: Input should be a valid string": {"created": 20260101},
    "calibration.right: Field required": {"calibration": {"presence": [0.5] * 6}},
    "parts: Value error, a part is not called by its": {"parts": [{"file": "../../x.safetensors", "sha256": "0" * 64}]},
    "recursion limit exceeded": {"recipe": ...},
}


@pytest.mark.parametrize("words", WRONG)
def test_a_card_that_cannot_be_used_is_named_and_harms_no_other(
    tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "models" / "good-1")
    path = make(tmp_path / "models" / "bad-1") / "card.json"
    card = {**json.loads(path.read_text()), **WRONG[words]}
    if words.startswith("recursion"):
        path.write_text("[" * 10**5)
    else:
        path.write_text(json.dumps({key: value for key, value in card.items() if value is not ...}))
    models_dir = tmp_path / "models"
    with pytest.raises(
        WeightsError, match=r"bad-1/card\.json is no card of a model version \(.*or delete .*bad-1$"
    ) as told:
        resolve("bad-1", models_dir)
    assert words in str(told.value)
    assert damaged(models_dir) == {"bad-1": str(told.value)}
    assert [version.name for version in installed(models_dir)] == ["good-1", *SHIPPED]
    assert resolve("tiny", models_dir).name == "good-1"
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path))
    assert main(["models", "list"]) == 0
    shown = capsys.readouterr()
    assert "good-1" in shown.out
    assert words in shown.err


def test_parts_that_a_card_may_name_that_cannot_be_read_stay(tmp_path: Path) -> None:
    part = save_part(tmp_path, "frozen", {"model.x": torch.ones(3)})
    for name in ("mine-1", "mine-2"):
        save_version(tmp_path / name, {"preset": "tiny", "labels": [], "parts": [part]}, {"model.y": torch.ones(2)})
    (tmp_path / "mine-2" / "card.json").write_text("{}")
    delete(tmp_path, "mine-1")
    assert (tmp_path / "parts" / part.file).is_file()


def test_fields_that_nobody_knows_stay(tmp_path: Path) -> None:
    make(tmp_path / "mine-1", more={"x": [1]}, verdict={"better": False, "sentence": "No.", "difference": 0.1})
    assert resolve("mine-1", tmp_path).card.as_json()["more"] == {"x": [1]}


def tensors_of(loaded: Loaded) -> dict[str, Tensor]:
    return {f"{m}.{key}": t for m, module in loaded.modules.items() for key, t in module.state_dict().items()}


def test_saving_and_loading_gives_the_same_model(tmp_path: Path) -> None:
    built_in = resolve("tiny")
    tensors = tensors_of(load_version(built_in, CPU))
    save_version(tmp_path / "copy-1", {k: v for k, v in built_in.card.as_json().items() if k != "sha256"}, tensors)
    again = tensors_of(load_version(resolve("copy-1", tmp_path), CPU))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def with_parts(models_dir: Path) -> dict[str, Tensor]:
    """The embedded model as a version of its own, with all but the projector in parts, and one tensor twice."""
    built_in = resolve("tiny")
    tensors = tensors_of(load_version(built_in, CPU))
    own = {key: tensor for key, tensor in tensors.items() if key.startswith("model.projector.")}
    twice = "model.projector.audio_proj.bias"
    frozen = {key: tensor for key, tensor in tensors.items() if key.startswith("model.") and key not in own}
    encoders = {key: tensor for key, tensor in tensors.items() if not key.startswith("model.")}
    parts = [
        save_part(models_dir, "frozen", {**frozen, twice: torch.full_like(own[twice], 9)}),
        save_part(models_dir, "encoders", encoders),
    ]
    save_version(models_dir / "mine-1", {"preset": "tiny", "labels": built_in.card.labels, "parts": parts}, own)
    return tensors


def test_a_version_lies_over_its_parts(tmp_path: Path) -> None:
    tensors = with_parts(tmp_path)
    loaded = tensors_of(load_version(resolve("mine-1", tmp_path), CPU))
    assert all(torch.equal(loaded[key], tensor) for key, tensor in tensors.items())


def test_a_part_is_kept_once(tmp_path: Path) -> None:
    first, second = (save_part(tmp_path, "frozen", {"model.x": torch.ones(3)}) for _ in range(2))
    other = save_part(tmp_path, "frozen", {"model.x": torch.zeros(3)})
    assert first == second
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {first.file, other.file}


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_part_that_is_not_what_it_was_is_named(tmp_path: Path, harm: str) -> None:
    with_parts(tmp_path)
    [part] = (tmp_path / "parts").glob("frozen-*")
    part.unlink() if harm == "missing" else part.write_bytes(part.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match=rf"{part.name}.* is {harm}"):
        load_version(resolve("mine-1", tmp_path), CPU)


def tune(models_dir: Path, name: str, parent: str, **tensors: Tensor) -> Path:
    """A version that holds these tensors of the projector and loads onto `parent`."""
    card = {"preset": "tiny", "labels": resolve("tiny").card.labels, "parent": parent, "onto_parent": True}
    save_version(models_dir / name, card, {f"model.projector.{key}": value for key, value in tensors.items()})
    return models_dir / name


def test_a_fine_tuned_version_lies_over_its_parents(tmp_path: Path) -> None:
    before = with_parts(tmp_path)
    audio, image = ("model.projector.audio_proj.bias", "model.projector.vision_proj.bias")
    first, second = (torch.full_like(before[audio], value) for value in (1, 2))
    other = torch.full_like(before[image], 3)
    tune(tmp_path, "mine-1-p3-1", "mine-1", **{"audio_proj.bias": first, "vision_proj.bias": other})
    tune(tmp_path, "mine-1-p3-2", "mine-1-p3-1", **{"audio_proj.bias": second})
    version = resolve("mine-1-p3-2", tmp_path)
    version.check()
    assert [each.name for each in version.chain] == ["mine-1-p3-2", "mine-1-p3-1", "mine-1"]
    assert [path.parent.name for path, _ in version.files] == ["parts", "parts", *(v.name for v in version.chain[::-1])]
    loaded = tensors_of(load_version(version, CPU))
    expected = {**before, audio: second, image: other}
    assert all(torch.equal(loaded[key], tensor) for key, tensor in expected.items())


def test_one_that_was_tuned_from_the_embedded_model(tmp_path: Path) -> None:
    bias = torch.zeros(256)
    tune(tmp_path, f"{EMBEDDED}-p3-1", EMBEDDED, **{"audio_proj.bias": bias})
    version = resolve(f"{EMBEDDED}-p3-1", tmp_path)
    assert version.weights.stat().st_size < 2000
    assert torch.equal(load_version(version, CPU).model.projector.audio_proj.bias, bias)
    assert resolve("tiny", tmp_path).name == EMBEDDED
    assert version.caution is None


def test_the_name_of_a_fine_tuned_version_is_that_of_the_root_the_project_and_a_number(tmp_path: Path) -> None:
    tune(tmp_path, f"{EMBEDDED}-p3-1", EMBEDDED)
    tune(tmp_path, f"{EMBEDDED}-p3-2", f"{EMBEDDED}-p3-1")
    assert fine_tuned_name(resolve("tiny").chain[-1].name, 3, 7) == f"{EMBEDDED}-p3-7"
    assert fine_tuned_name(resolve(f"{EMBEDDED}-p3-2", tmp_path).chain[-1].name, 4, 8) == f"{EMBEDDED}-p4-8"
    make(tmp_path / ("a" * 100))
    with pytest.raises(WeightsError, match="is no model version"):
        fine_tuned_name("a" * 100, 3, 1)


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_parent_that_is_not_what_it_was_is_named(tmp_path: Path, harm: str) -> None:
    with_parts(tmp_path)
    tune(tmp_path, "mine-1-p3-1", "mine-1")
    version, weights = resolve("mine-1-p3-1", tmp_path), tmp_path / "mine-1/weights.safetensors"
    weights.unlink() if harm == "missing" else weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match=rf"mine-1/weights\.safetensors.* is {harm}.*bring it back from a copy"):
        version.verify()


@pytest.mark.parametrize(
    ("parent", "remedy"),
    [
        ("mine-1", "bring it by `av2t models export mine-1 FILE` where it is and `av2t models import FILE` here"),
        ("sam2-l-ms3", "`av2t weights pull sam2-l --dataset ms3` fetches them"),
        ("tiny-99", "it ships with another release of this package, install that one"),
    ],
)
def test_a_parent_that_is_gone_is_told_how_to_get(tmp_path: Path, parent: str, remedy: str) -> None:
    make(tmp_path / parent)
    make(tmp_path / "tuned-1", parent=parent, onto_parent=True)
    shutil.rmtree(tmp_path / parent)
    version = resolve("tuned-1", tmp_path)
    for look in (version.check, version.verify, lambda: load_version(version, CPU)):
        with pytest.raises(WeightsError, match=f"tuned-1 loads onto {parent}, which is not in") as caught:
            look()
        assert f": {remedy}" in told(caught.value)
    assert [version.name for version in installed(tmp_path)] == ["tuned-1", *SHIPPED]  # it is listed all the same
    with pytest.raises(WeightsError, match=f"tuned-2 loads onto {parent}, which is not in"):
        make(tmp_path / "tuned-2", parent=parent, onto_parent=True)
    assert find("tuned-2", tmp_path) is None


def test_a_parent_of_the_same_name_is_not_the_same(tmp_path: Path) -> None:
    make(tmp_path / "mine-1")
    make(tmp_path / "tuned-1", parent="mine-1", onto_parent=True)
    (tmp_path / "mine-1").rename(tmp_path / "away")
    save_version(tmp_path / "mine-1", CARD, {"model.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match="tuned-1 loads onto another mine-1 than the one in"):
        resolve("tuned-1", tmp_path).check()


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "mine-1")
    make(tmp_path / "mine-2", parent="mine-1", onto_parent=True)
    card = tmp_path / "mine-1/card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "parent": "mine-2", "onto_parent": True}))
    with pytest.raises(WeightsError, match="mine-2 onto mine-1 onto mine-2: a model version cannot load onto itself"):
        resolve("mine-2", tmp_path).check()


def test_a_parent_is_no_path(tmp_path: Path) -> None:
    make(tmp_path / "models" / "mine-1")
    make(tmp_path / "elsewhere")
    card = tmp_path / "models/mine-1/card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "parent": "../elsewhere", "onto_parent": True}))
    with pytest.raises(WeightsError, match=r"'\.\./elsewhere' is no model version"):
        resolve("mine-1", tmp_path / "models").check()


@pytest.mark.parametrize("name", ["parts", "projects", "downloads"])
def test_no_version_is_called_as_a_folder_beside_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="a folder beside them is called so"):
        resolve(name, tmp_path)


def test_a_start_is_no_model(tmp_path: Path) -> None:
    make(tmp_path / "mine-1", start=True)
    with pytest.raises(WeightsError, match="EVF-SAM alone, a start for training"):
        load_version(resolve("mine-1", tmp_path), CPU)
    assert resolve("tiny", tmp_path).directory.parent == BUILT_IN


def test_a_preset_is_its_newest_version_that_nobody_fine_tuned(tmp_path: Path) -> None:
    make(tmp_path / "mine-1")
    make(tmp_path / "mine-2", parent="mine-1")
    assert resolve("tiny", tmp_path).name == "mine-1"


def test_an_interrupted_save_leaves_no_version(tmp_path: Path) -> None:
    make(tmp_path / ".mine-1.part")
    with pytest.raises(WeightsError, match="there are small-"):
        resolve("mine-1", tmp_path)


def test_weights_are_mapped_and_not_copied(tmp_path: Path) -> None:
    with_parts(tmp_path)
    loaded = load_version(resolve("mine-1", tmp_path), CPU)
    assert mapped("frozen-")
    assert mapped("encoders-")
    assert loaded.model.projector.audio_proj.weight.requires_grad is False


def test_weights_that_are_converted_leave_their_file(tmp_path: Path) -> None:
    with_parts(tmp_path)
    loaded = load_version(resolve("mine-1", tmp_path), CPU, "bf16")
    assert not mapped("frozen-")
    assert mapped("encoders-")
    assert loaded.precision == "bf16"


def mapped(file: str) -> bool:
    return any(file in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_bf16_is_for_the_matrices_of_the_large_encoders() -> None:
    model = load_version(resolve("tiny"), CPU, "bf16").model
    narrow = {key for key, tensor in model.state_dict().items() if tensor.dtype == torch.bfloat16}
    assert "segmenter.sam.image_encoder.trunk.blocks.0.expand.weight" in narrow
    assert "segmenter.multimodal.vision_embed.proj.weight" in narrow
    assert not any("norm" in key or "pos_embed" in key for key in narrow)
    assert all(key.startswith(("segmenter.multimodal.", "segmenter.sam.image_encoder.")) for key in narrow)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_encoders_fit_every_preset(preset: str) -> None:
    built = build(preset)
    config = built.model.config
    assert (built.image_encoder.width, built.audio_encoder.width) == (config.image_width, config.audio_width)
    assert {parameter.device.type for parameter in built.model.parameters()} == {"meta"}


def test_names_need_no_torch() -> None:
    code = (
        "import sys, av2t_core.model.presets, av2t_core.versions.version as v; v.resolve('tiny');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_card_that_cannot_be_read_does_not_keep_a_preset_from_being_found(tmp_path: Path) -> None:
    make(tmp_path / "mine-1")
    (tmp_path / "damaged-1").mkdir()
    (tmp_path / "damaged-1/card.json").write_text("{")
    assert resolve("tiny", tmp_path).name == "mine-1"
    with pytest.raises(WeightsError, match="is no card"):
        resolve("damaged-1", tmp_path)
