"""Where weights are published, as far as it can be checked without the hub."""

import re
import subprocess
import sys

import open_clip
import pytest

from av2t_core.errors import WeightsError
from av2t_core.model.config import Feature
from av2t_core.model.presets import PRESETS
from av2t_core.versions import published
from av2t_core.versions.names import NAME

EVERY_ROW = [(p, f, d) for p in published.presets() for f in published.FEATURES for d in published.DATASETS]


def test_every_preset_but_the_embedded_one_is_published() -> None:
    assert published.presets() == [name for name in PRESETS if name not in ("small", "tiny", "tiny-noadapter")]
    assert all(len(published.encoders(name)) == 2 for name in published.presets())


def test_clip_is_where_open_clip_says() -> None:
    openai = open_clip.get_pretrained_cfg("ViT-B-32-quickgelu", "openai")
    assert openai["hf_hub"].rstrip("/") == published.encoders("sam2-l")["clip"].repository


@pytest.mark.parametrize(("preset", "feature", "dataset"), EVERY_ROW)
def test_a_checkpoint_is_found_by_the_name_that_training_gives_it(
    preset: str, feature: Feature, dataset: published.Dataset
) -> None:
    wanted = published.model(preset, feature, dataset)
    names = {
        f"avt_{f}{a}_{e}_{d}_best.pth"
        for f in published.FEATURES
        for a in ("", "_adapter")
        for e in ("evf_sam", "evf_sam2")
        for d in published.DATASETS
    }
    [found] = published.find(wanted, [*names, "README.md", ".gitattributes"])
    assert re.search(re.escape(wanted.example.removeprefix("…")) + "$", found)
    assert published.named(found) == published.Named(feature=feature, dataset=dataset)


@pytest.mark.parametrize(
    "name", ["ckpt/mul_evf_sam_m3_best.pth", "mul_evf_sam_m3.pt", "my_mul_run_mul_evf_sam_ms3_best.safetensors"]
)
def test_other_forms_of_the_name(name: str) -> None:
    wanted = published.model("sam1-h-noadapter", "mul", "ms3")
    assert published.find(wanted, [name]) == [name]
    assert published.named(name) == published.Named(feature="mul", dataset="ms3")


@pytest.mark.parametrize("name", ["best.pth", "mul_evf_sam2_avss_best.pth", "mul_adapters_evf_sam2_s4_best.pth"])
def test_names_that_say_nothing(name: str) -> None:
    assert published.named(name) is None


def test_another_file_list_is_told() -> None:
    with pytest.raises(WeightsError) as error:
        published.find(published.model("sam2-l", "mul", "s4"), ["beit3.pth", "README.md"])
    assert str(error.value).startswith(
        "Kyungbok/AV2T-SAM holds no file named like …_mul_adapter_evf_sam2_s4_best.pth; it holds README.md, beit3.pth"
    )
    with pytest.raises(WeightsError, match="it holds nothing"):
        published.find(published.encoders("sam2-l")["ms-clap"], [])


def test_rivals_are_told() -> None:
    names = [f"{run}_mul_adapter_evf_sam2_s4_best.pth" for run in ("a", "b")]
    with pytest.raises(WeightsError, match=r"several files for AV2T-SAM: a_mul_.*, b_mul_.*"):
        published.find(published.model("sam2-l", "mul", "s4"), names)


def test_safetensors_go_before_pickles_and_shards_belong_together() -> None:
    start = published.start("sam2-l")
    shards = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    assert published.find(start, ["pytorch_model.bin", "model.safetensors", *shards]) == ["model.safetensors"]
    assert published.find(start, ["pytorch_model.bin", *shards]) == shards
    assert published.find(start, ["pytorch_model.bin", "config.json"]) == ["pytorch_model.bin"]
    with pytest.raises(WeightsError, match="holds 2 of the 3 files of EVF-SAM2"):
        published.find(start, shards[1:])


def test_version_names_are_names() -> None:
    names = [published.version_name(*row) for row in EVERY_ROW] + [published.start_name(p) for p in published.presets()]
    assert all(NAME.fullmatch(name) for name in names)
    assert len(set(names)) == len(names)
    assert published.version_name("sam2-l", "mul", "ms3") == "sam2-l-ms3"
    assert published.version_name("sam2-l", "clap", "s4") == "sam2-l-clap-s4"


def test_it_needs_neither_torch_nor_the_hub() -> None:
    code = (
        "import sys; from av2t_core.versions.published import gigabytes; assert round(gigabytes('sam2-l'), 1) == 5.0;"
        " assert not {'torch', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
