"""`av2t weights import` and `list`, with the presets at the size of micro models."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from av2t_core.versions.saving import save_part
from av2t_core.versions.version import resolve
from tests import micro_published as published
from tests.av2t.test_weights import PARTS, Av2t, av2t, model_of, models_dir, parts, refused, same
from tests.conftest import EMBEDDED, SHIPPED
from tests.core.clips import Sound, at_rate, tone, write_clip
from tests.core.versions.test_state_file import Harm

__all__ = ["av2t", "models_dir"]  # fixtures

CHECKPOINT = "run_mul_adapter_evf_sam2_s4_best.pth"


def write(folder: Path, name: str, state: dict[str, Tensor]) -> Path:
    path = folder / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.fixture
def encoders(tmp_path: Path) -> list[Path]:
    """Those of every preset but the one with LAION-CLAP."""
    return [
        write(tmp_path, "open_clip_model.safetensors", published.clip_state()),
        write(tmp_path, "CLAP_weights_2023.pth", published.ms_clap_state()),
        write_merges(tmp_path, published.merges()),
    ]


def write_merges(folder: Path, content: bytes) -> Path:
    path = folder / "merges.txt"
    path.write_bytes(content)
    return path


# Every kind


def test_a_model_with_its_encoders(av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]) -> None:
    path = write(tmp_path, CHECKPOINT, published.av2t_sam())
    said = av2t("weights", "import", "sam2-l", path, *encoders)
    assert said.status == 0, said.err
    assert f"sam2-l-s4 is in {models_dir}" in said.out
    assert parts(models_dir) == PARTS
    assert same(model_of(models_dir, "sam2-l"), published.av2t_sam())
    card = json.loads((models_dir / "sam2-l-s4" / "card.json").read_text())
    assert (card["preset"], card["feature"], card["start"]) == ("sam2-l", "mul", False)
    assert card["source"]["file"] == CHECKPOINT
    assert path.exists()


def test_encoders_first_and_the_model_later(av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]) -> None:
    for paths in (encoders[:1], encoders[1:]):
        said = av2t("weights", "import", "sam2-l", *paths)
        assert (said.status, "import the model's own checkpoint next" in said.out) == (0, True)
    path = write(tmp_path, "best.pth", published.av2t_sam(feature="clap"))
    assert av2t("weights", "import", "sam2-l", path, "--feature", "clap", "--name", "mine-1").status == 0
    model = model_of(models_dir, "mine-1")
    assert model.config.feature == "clap"
    assert same(model, published.av2t_sam(feature="clap"))


def test_sam1(av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]) -> None:
    path = write(tmp_path, "a_mul_adapter_evf_sam_m3_best.pth", published.av2t_sam("sam1-h"))
    assert av2t("weights", "import", "sam1-h", path, *encoders).status == 0
    assert "evf-sam1" in parts(models_dir)
    assert same(model_of(models_dir, "sam1-h-ms3"), published.av2t_sam("sam1-h"))


def test_laion_clap(av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]) -> None:
    laion = tmp_path / "630k-audioset-best.pt"
    laion.write_bytes(published.repositories()[published.LAION_CLAP][laion.name])
    path = write(tmp_path, CHECKPOINT, published.av2t_sam("sam2-l-laion"))
    said = av2t("weights", "import", "sam2-l-laion", path, encoders[0], laion)
    assert said.status == 0, said.err
    assert "laion-clap" in parts(models_dir)
    assert same(model_of(models_dir, "sam2-l-laion-s4"), published.av2t_sam("sam2-l-laion"))


def test_evf_sam_in_shards_is_a_start(av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]) -> None:
    items = list(published.evf_sam().items())
    shards = [
        write(tmp_path, f"model-{i}-of-2.safetensors", dict(some)) for i, some in ((1, items[:40]), (2, items[40:]))
    ]
    said = av2t("weights", "import", "sam2-l", *encoders, *shards)
    assert said.status == 0, said.err
    assert "sam2-l-start is in" in said.out
    assert f"{shards[1]} is one of 2 files that belong together: give all of them" in refused(
        av2t("weights", "import", "sam2-l", shards[1], "--name", "half")
    )


# Refused


def test_a_pickle_is_never_run(av2t: Av2t, tmp_path: Path) -> None:
    (tmp_path / "best.pth").write_bytes(pickle.dumps({"a": Harm(tmp_path / "harm")}, protocol=2))
    sentence = refused(av2t("weights", "import", "sam2-l", tmp_path / "best.pth"))
    assert "best.pth holds more than weights" in sentence
    assert not (tmp_path / "harm").exists()


def test_what_is_not_known_is_told(av2t: Av2t, tmp_path: Path) -> None:
    path = write(tmp_path, "other.pth", {"vision_model.embeddings.weight": torch.ones(1), "b": torch.ones(1)})
    sentence = refused(av2t("weights", "import", "sam2-l", path))
    assert "other.pth is none of the state dicts that are known: av2t-sam (projector.*, " in sentence
    assert sentence.endswith("its keys begin with b, vision_model.embeddings")
    assert "no.pth cannot be read (No such file" in refused(av2t("weights", "import", "sam2-l", tmp_path / "no.pth"))


@pytest.mark.parametrize(
    ("held", "preset", "reason"),
    [
        ("sam2-l", "sam2-l-noadapter", "it has adapters: use preset sam2-l"),
        ("sam2-l-noadapter", "sam2-l", "it has no adapters: use preset sam2-l-noadapter"),
        ("sam1-h", "sam2-l", "it holds EVF-SAM and not EVF-SAM2: use preset sam1-h"),
        ("sam2-l", "sam1-h", "it holds EVF-SAM2 and not EVF-SAM: use preset sam2-l"),
        (
            "sam2-l-noadapter",
            "sam1-h",
            "it holds EVF-SAM2 and not EVF-SAM and has no adapters: use preset sam2-l-noadapter",
        ),
        (
            "sam2-l-laion",
            "sam2-l",
            "it was trained on sound embeddings of 512, ms-clap gives 1024: use preset sam2-l-laion",
        ),
    ],
)
def test_another_model_is_refused_by_name(
    av2t: Av2t, tmp_path: Path, encoders: list[Path], held: str, preset: str, reason: str
) -> None:
    path = write(tmp_path, "best.pth", published.av2t_sam(held))
    sentence = refused(av2t("weights", "import", preset, path, *encoders, "--feature", "mul", "--name", "mine"))
    assert sentence == f"av2t: error: {path} does not fit the preset {preset}: {reason}"


def test_evf_sam_of_the_other_sam_is_refused(av2t: Av2t, tmp_path: Path, encoders: list[Path]) -> None:
    path = write(tmp_path, "model.safetensors", published.evf_sam("sam1-h"))
    assert "holds EVF-SAM and not EVF-SAM2: use preset sam1-h" in refused(
        av2t("weights", "import", "sam2-l", path, *encoders)
    )


def test_keys_that_do_not_fit_are_named(av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]) -> None:
    state = dict(published.av2t_sam())
    state["projector.extra"] = state.pop("projector.audio_proj.bias")
    path = write(tmp_path, CHECKPOINT, state)
    sentence = refused(av2t("weights", "import", "sam2-l", path, *encoders))
    assert (
        f"{path}, for the preset sam2-l: the weights do not fit the model (2 keys): missing projector.audio_proj.bias"
        in sentence
    )
    assert not (models_dir / "sam2-l-s4").exists()
    del state["projector.audio_proj.weight"]
    path = write(tmp_path, CHECKPOINT, state)
    assert "missing projector.audio_proj.weight" in refused(av2t("weights", "import", "sam2-l", path, *encoders))
    state = {key: tensor for key, tensor in published.ms_clap_state().items() if "linear1" not in key}
    path = write(tmp_path, "clap.pth", state)
    assert "missing audio_encoder.projection.linear1.weight" in refused(
        av2t("weights", "import", "sam2-l", path, encoders[2])
    )


def test_encoders_that_lack_are_asked_for_before_any_work(
    av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]
) -> None:
    path = write(tmp_path, CHECKPOINT, published.av2t_sam())
    sentence = refused(av2t("weights", "import", "sam2-l", path, encoders[0]))
    files = "CLAP_weights_2023.pth of microsoft/msclap and merges.txt of openai-community/gpt2"
    assert f"sam2-l needs its encoders, too: give {files} beside {path}" in sentence
    assert not list((models_dir / "parts").iterdir())


def test_what_does_not_belong_together(av2t: Av2t, tmp_path: Path, encoders: list[Path]) -> None:
    path = write(tmp_path, CHECKPOINT, published.av2t_sam())
    start = write(tmp_path, "model.safetensors", published.evf_sam())
    assert "is ms-clap; sam2-l-laion works with clip and laion-clap, leave it out" in refused(
        av2t("weights", "import", "sam2-l-laion", encoders[1])
    )
    assert f"{path} is av2t-sam and {start} is evf-sam: import one at a time" in refused(
        av2t("weights", "import", "sam2-l", path, start)
    )
    again = write(tmp_path, "again.pth", published.clip_state())
    assert f"{encoders[0]} is clip and {again} is clip: import one at a time" in refused(
        av2t("weights", "import", "sam2-l", encoders[0], again)
    )


def test_ms_clap_and_the_merges_it_reads_by_belong_together(
    av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]
) -> None:
    model = write(tmp_path, CHECKPOINT, published.av2t_sam())
    clip, clap, merges = encoders
    what = "GPT-2's merges, by which MS-CLAP reads names"
    assert f"{clap} needs {what}: give merges.txt of openai-community/gpt2 beside it" in refused(
        av2t("weights", "import", "sam2-l", model, clip, clap)
    )
    assert f"{merges} is {what}: give CLAP_weights_2023.pth of microsoft/msclap beside it" in refused(
        av2t("weights", "import", "sam2-l", merges)
    )
    assert "is gpt2-merges; sam2-l-laion works with clip and laion-clap, leave it out" in refused(
        av2t("weights", "import", "sam2-l-laion", merges)
    )
    assert not (models_dir / "parts").exists()
    write_merges(tmp_path, published.merges().replace(b"\nt h\n", b"\nt hh\n"))
    assert f"{merges}, line 2: 't hh' is not two tokens that are known by then" in refused(
        av2t("weights", "import", "sam2-l", model, *encoders)
    )


def test_a_model_of_before_it_could_read_is_imported_again(
    av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]
) -> None:
    path = write(tmp_path, CHECKPOINT, published.av2t_sam())
    command = ["weights", "import", "sam2-l", str(path), *map(str, encoders[:2])]
    assert av2t(*command, encoders[2]).status == 0
    version = resolve("sam2-l-s4", models_dir)
    [part] = (models_dir / "parts").glob("ms-clap-2023-captions-*")
    heard = {k: t for k, t in load_file(part).items() if k.startswith(("audio_encoder.htsat", "audio_encoder.proj"))}
    part.unlink()
    old = save_part(models_dir, "ms-clap-2023", heard)
    source = {"command": f"av2t {' '.join(command)} --feature mul --name sam2-l-s4"}
    card = {**version.card.as_json(), "source": source}
    card["parts"] = [part.as_json() for part in (*version.card.parts[:2], old)]
    (version.directory / "card.json").write_text(json.dumps(card))

    clip = write_clip(tmp_path / "clip.mp4", at_rate(5, 1), sounds=[Sound(samples=tone(1))])
    predict = ("predict", clip, "--out", tmp_path / "out", "--model", "sam2-l", "--names", "dog,violin", "--no-overlay")
    sentence = refused(av2t(*predict))
    assert f"{version.directory} does not fit the preset 'sam2-l' of this release: the weights do not fit" in sentence
    assert "missing audio_encoder.captions.gpt2.h.0.attn.c_attn.bias; " in sentence
    assert sentence.endswith(f"; delete {version.directory} and run `{source['command']}`")
    # As it says.
    shutil.rmtree(version.directory)
    again = source["command"].split()[1:]
    assert "give merges.txt of openai-community/gpt2 beside it" in refused(av2t(*again))
    assert av2t(*again[:6], encoders[2], *again[6:]).status == 0
    assert av2t(*predict).status == 0


def test_a_name_that_says_too_little(av2t: Av2t, tmp_path: Path, encoders: list[Path]) -> None:
    path = write(tmp_path, "best.pth", published.av2t_sam())
    command = ("weights", "import", "sam2-l", path, *encoders)
    assert "the name of best.pth does not say which feature it was trained with: add --feature" in refused(
        av2t(*command)
    )
    assert "does not say what it was trained on: name the version with --name" in refused(
        av2t(*command, "--feature", "mul")
    )
    assert "'Mine' is no model version" in refused(av2t(*command, "--feature", "mul", "--name", "Mine"))
    named = write(tmp_path, CHECKPOINT, published.av2t_sam())
    assert "--feature clip contradicts the checkpoint's name, which says mul" in refused(
        av2t("weights", "import", "sam2-l", named, *encoders, "--feature", "clip")
    )


def test_a_version_is_never_changed(av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]) -> None:
    path = write(tmp_path, CHECKPOINT, published.av2t_sam())
    assert av2t("weights", "import", "sam2-l", path, *encoders).status == 0
    sentence = refused(av2t("weights", "import", "sam2-l", path))
    assert f"{models_dir / 'sam2-l-s4'} exists; a model version is never changed, choose another name" in sentence


def test_a_preset_that_is_none(av2t: Av2t) -> None:
    for preset in ("tiny", "sam3"):
        assert f"invalid choice: '{preset}'" in refused(av2t("weights", "pull", preset))


# list


def test_list(av2t: Av2t, models_dir: Path, tmp_path: Path, encoders: list[Path]) -> None:
    said = av2t("weights", "list")
    assert said.status == 0
    assert f"  {EMBEDDED}   model  24 MB  ships with the package\n" in said.out
    assert "  sam2-l            about 5 GB  `av2t weights pull sam2-l`\n" in said.out

    av2t("weights", "import", "sam2-l", write(tmp_path, CHECKPOINT, published.av2t_sam()), *encoders)
    av2t("weights", "import", "sam2-l", write(tmp_path, "model.safetensors", published.evf_sam()))
    (models_dir / "downloads").mkdir()
    (models_dir / "downloads" / "0123.part").write_bytes(b"x" * 2_000_000)
    next((models_dir / "parts").glob("ms-clap*")).unlink()
    found = json.loads(av2t("weights", "list", "--json").out)
    versions = {version["name"]: version for version in found["versions"]}
    assert list(versions) == ["sam2-l-s4", "sam2-l-start", *SHIPPED]
    assert [versions[name]["kind"] for name in versions] == ["model", "start", "model", "model"]
    assert versions["sam2-l-s4"]["bytes"] == (models_dir / "sam2-l-s4" / "weights.safetensors").stat().st_size
    assert versions["sam2-l-s4"]["source"]["file"] == CHECKPOINT
    assert [Path(path).name.rpartition("-")[0] for path in versions["sam2-l-s4"]["lacks"]] == ["ms-clap-2023-captions"]
    assert (versions[EMBEDDED]["built_in"], versions[EMBEDDED]["lacks"]) == (True, [])
    shared = {part["file"].rpartition("-")[0]: part for part in found["parts"]}
    assert shared["clip-vit-b-32"]["versions"] == ["sam2-l-s4", "sam2-l-start"]
    assert shared["ms-clap-2023-captions"]["bytes"] is None
    assert [missing["preset"] for missing in found["missing"]] == [
        "sam2-l-noadapter",
        "sam2-l-laion",
        "sam1-h",
        "sam1-h-noadapter",
    ]
    assert found["downloads"] == {"directory": str(models_dir / "downloads"), "bytes": 2_000_000}

    said = av2t("weights", "list")
    assert "lacks ms-clap-2023-" in said.out
    assert "missing  of sam2-l-s4, sam2-l-start\n" in said.out
    assert "Fetched and not converted: 2 MB in" in said.out
