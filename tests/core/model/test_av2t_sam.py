"""AV2T-SAM against numbers of the reference implementation, on a micro model with weights made from their names."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from av2t_core.errors import WeightsError
from av2t_core.model import AV2TSam, AV2TSamConfig
from av2t_core.model.config import Beit3Config, Feature, Sam2Config
from av2t_core.model.reference import load_reference_state_dict, to_reference_state_dict
from av2t_core.model.segmenter import best_mask
from tests.data.golden import by_name

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "micro_evf_sam2.npz"
MICRO = AV2TSamConfig(
    beit3=Beit3Config(image_size=224, width=32, layers=2, heads=4, ffn_width=64, vocabulary=32),
    sam2=Sam2Config(
        image_size=128,
        embed_dim=8,
        num_heads=1,
        stages=(1, 2, 3, 1),
        global_att_blocks=(4,),
        window_spec=(8, 4, 14, 7),
        width=32,
        memory_layers=1,
        memory_ffn_width=64,
        memory_width=16,
    ),
)
TOLERANCE = 1e-4


def micro(feature: Feature = "mul", adapter: bool = True) -> AV2TSam:
    model = AV2TSam(replace(MICRO, feature=feature, adapter=adapter)).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in to_reference_state_dict(model).items()}
    load_reference_state_dict(model, {k: torch.from_numpy(by_name.tensor(k, s)) for k, s in shapes.items()})
    return model


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    with np.load(GOLDEN) as file:
        return dict(file)


def inputs(golden: dict[str, NDArray[np.float32]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """images_sam, images_mm, v, a of 2 clips of 2 frames, as one batch of 4."""
    images_sam = by_name.tensor_input("micro.images_sam", (2, 2, 3, 128, 128))
    images_mm = by_name.tensor_input("micro.images_beit", (2, 2, 3, 224, 224))
    arrays = (images_sam, images_mm, golden["clip_embeddings"], golden["clap_embeddings"])
    first, second, third, fourth = (torch.from_numpy(array).flatten(0, 1) for array in arrays)
    return first, second, third, fourth


def difference(ours: Tensor, theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours.numpy().reshape(theirs.shape) - theirs).max())


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "noadapter"])
@pytest.mark.parametrize("feature", ["mul", "clap", "clip"])
@torch.inference_mode()
def test_matches_the_reference(golden: dict[str, NDArray[np.float32]], feature: Feature, adapter: bool) -> None:
    model, row = micro(feature, adapter), f"{feature}_{'adapter' if adapter else 'noadapter'}"
    images_sam, images_mm, v, a = inputs(golden)
    f = model.projector.feature(v, a)
    logits, ious = model.candidates(images_sam, images_mm, v, a)
    assert difference(f, golden[f"{row}/projector_features"]) < TOLERANCE
    prompt = model.segmenter.prompt(images_mm, model.projector.tokens(f))
    assert difference(prompt, golden[f"{row}/sparse_embeddings"]) < TOLERANCE
    assert difference(logits, golden[f"{row}/low_res_masks"]) < TOLERANCE
    assert difference(ious, golden[f"{row}/iou_predictions"]) < TOLERANCE
    assert difference(best_mask(logits, ious), golden[f"{row}/low_res_best"]) < TOLERANCE


@torch.inference_mode()
def test_the_multimodal_encoder_matches(golden: dict[str, NDArray[np.float32]]) -> None:
    model = micro()
    _, images_mm, v, a = inputs(golden)
    f = model.projector.feature(v, a)
    sequence = model.segmenter.multimodal(images_mm, model.projector.tokens(f))
    assert difference(sequence, golden["mul_adapter/beit3_encoder_out"]) < TOLERANCE


@torch.inference_mode()
def test_the_adapters_leave_no_trace_in_the_trunk(golden: dict[str, NDArray[np.float32]]) -> None:
    images_sam, images_mm, v, a = inputs(golden)
    model = micro()
    first = model(images_sam, images_mm, v, a)
    other = model(images_sam, images_mm, v, torch.roll(a, 1, 0))
    assert not torch.equal(first, other)
    assert torch.equal(first, model(images_sam, images_mm, v, a))
    assert not any(block._forward_pre_hooks for block in model.segmenter.sam.image_encoder.trunk.blocks)


@torch.inference_mode()
def test_frames_of_a_batch_do_not_see_each_other(golden: dict[str, NDArray[np.float32]]) -> None:
    model = micro()
    batch = inputs(golden)
    together = model(*batch)
    alone = torch.cat([model(*(part[i : i + 1] for part in batch)) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_weights_that_do_not_fit_are_named() -> None:
    model = micro()
    state = to_reference_state_dict(model)
    tensor = state.pop("projector.audio_proj.bias")
    state["projector.audio_proj.bias2"] = tensor
    state["model.text_hidden_fcs.0.0.bias"] = torch.zeros(3)
    with pytest.raises(WeightsError) as error:
        load_reference_state_dict(model, state)
    assert "missing projector.audio_proj.bias;" in str(error.value)
    assert "unknown projector.audio_proj.bias2" in str(error.value)
    assert "model.text_hidden_fcs.0.0.bias is (3,), the model has (32,)" in str(error.value)


def test_the_full_size_has_the_published_keys(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.loads((shared / "golden" / "keys_evf_sam2.json").read_text())["entries"]
    # The stock trunk reads numbers from a tensor while it is built, which the meta device cannot give.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        model = AV2TSam(AV2TSamConfig())
    ours = {key: list(tensor.shape) for key, tensor in to_reference_state_dict(model).items()}
    assert ours == {entry["key"]: entry["shape"] for entry in listed}
