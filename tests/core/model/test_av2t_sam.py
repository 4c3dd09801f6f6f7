"""AV2T-SAM against numbers of the reference implementation, on micro models with weights made from their names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from av2t_core.errors import WeightsError
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.config import AV2TSamConfig, Feature
from av2t_core.model.published_weights import empty_weights
from av2t_core.segmenters.evf_sam1 import EvfSam1Config
from av2t_core.segmenters.evf_sam2 import EvfSam2Config
from tests.core.model.micro import (
    BACKBONES,
    MICRO,
    Backbone,
    complete,
    difference,
    evf,
    golden,
    inputs,
    load_reference_state_dict,
    micro,
    reference_weights,
    results,
    some,
    to_reference_state_dict,
)

TOLERANCE = 1e-4
MASK_TOLERANCE = 2e-4
FULL = {"evf_sam2": AV2TSamConfig(segmenter=EvfSam2Config()), "evf_sam": AV2TSamConfig(segmenter=EvfSam1Config())}

both = pytest.mark.parametrize("backbone", BACKBONES)
all_rows = [
    pytest.param(feature, adapter, id=f"{feature}_{'adapter' if adapter else 'noadapter'}")
    for feature in ("mul", "clap", "clip")
    for adapter in (True, False)
]


def check(backbone: Backbone, feature: Feature, adapter: bool, expected: dict[str, NDArray[np.float32]]) -> None:
    found = results(micro(backbone, feature, adapter), inputs())
    differences = {name: difference(found[name], theirs) for name, theirs in expected.items()}
    print(f"{backbone} {feature} {'adapter' if adapter else 'noadapter'}: largest difference")
    print("  " + ", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    wrong = {
        name: value
        for name, value in differences.items()
        if not value <= (MASK_TOLERANCE if name == "masks" else TOLERANCE)
    }
    assert not wrong
    chosen = found["iou_predictions"].argmax(dim=-1).numpy()
    assert (chosen == expected["iou_predictions"].argmax(axis=-1)).all()


@both
@pytest.mark.parametrize(("feature", "adapter"), all_rows)
def test_matches_the_reference(backbone: Backbone, feature: Feature, adapter: bool) -> None:
    row = f"{feature}_{'adapter' if adapter else 'noadapter'}/"
    expected = {name.removeprefix(row): r for name, r in golden(backbone).items() if name.startswith(row)}
    assert {"projector_features", "sparse_embeddings", "low_res_masks", "iou_predictions"} <= expected.keys()
    check(backbone, feature, adapter, expected)


@both
@pytest.mark.parametrize(("feature", "adapter"), all_rows)
def test_matches_all_that_the_reference_computed(
    shared: Path, backbone: Backbone, feature: Feature, adapter: bool
) -> None:
    name = f"micro_{backbone}_{feature}_{'adapter' if adapter else 'noadapter'}.npz"
    with np.load(shared / "golden" / name) as expected:
        check(backbone, feature, adapter, dict(expected))


@both
@torch.inference_mode()
def test_the_adapters_leave_no_trace_in_the_trunk(backbone: Backbone) -> None:
    images, v, a = inputs()
    model = micro(backbone)
    first = model(images, v, a)
    other = model(images, v, torch.roll(a, 1, 0))
    assert not torch.equal(first, other)
    assert torch.equal(first, model(images, v, a))
    assert not any(block._forward_pre_hooks for block in evf(model).blocks)


@both
@torch.inference_mode()
def test_frames_of_a_batch_do_not_see_each_other(backbone: Backbone) -> None:
    model = micro(backbone)
    batch = inputs()
    together = model(*batch)
    alone = torch.cat([model(*some(batch, slice(i, i + 1))) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


@both
@torch.inference_mode()
def test_without_what_is_never_read_it_gives_the_same(backbone: Backbone) -> None:
    whole, lean = micro(backbone), AV2TSam(MICRO[backbone]).eval()
    load_reference_state_dict(lean, to_reference_state_dict(whole))
    assert len(lean.state_dict()) < len(whole.state_dict())
    assert torch.allclose(lean(*inputs()), whole(*inputs()), atol=1e-5)


@both
@torch.inference_mode()
def test_autocast_is_for_the_large_encoders_alone(backbone: Backbone) -> None:
    model, seen = micro(backbone), {}
    decoder = evf(model).sam.get_submodule("mask_decoder" if backbone == "evf_sam" else "sam_mask_decoder")
    modules = {"blocks": evf(model).blocks[0].mlp, "adapters": model.adapters, "decoder": decoder}
    for name, module in modules.items():
        assert module is not None
        module.register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output}))
    with torch.autocast("cpu", torch.bfloat16):
        found = model.candidates(*inputs())
    assert seen["blocks"].dtype == torch.bfloat16
    assert {found.logits.dtype, found.scores.dtype, seen["adapters"][0].dtype, seen["decoder"][0].dtype} == {
        torch.float32
    }


@both
def test_state_dicts_go_both_ways(backbone: Backbone) -> None:
    model = micro(backbone)
    weights = reference_weights(model)
    there_and_back = to_reference_state_dict(model)
    assert there_and_back.keys() == weights.keys()
    assert all(torch.equal(there_and_back[key], weights[key]) for key in weights)


@both
def test_an_empty_model_takes_the_weights_themselves(backbone: Backbone) -> None:
    with empty_weights():
        empty = AV2TSam(MICRO[backbone]).eval()
    weights = to_reference_state_dict(micro(backbone))
    load_reference_state_dict(empty, weights)
    taken = empty.projector.audio_proj.weight
    assert taken.data_ptr() == weights["projector.audio_proj.weight"].data_ptr()
    with torch.inference_mode():
        assert torch.allclose(empty(*inputs()), micro(backbone)(*inputs()), atol=1e-5)


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


def test_only_what_is_never_read_may_be_too_much() -> None:
    lean = AV2TSam(MICRO["evf_sam2"])
    state = to_reference_state_dict(micro())
    state["model.visual_model.sam_mask_decoder.extra"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"\(1 keys\): unknown model.visual_model.sam_mask_decoder.extra"):
        load_reference_state_dict(lean, state)


@both
def test_what_is_absent_must_be_announced(backbone: Backbone) -> None:
    lean = AV2TSam(MICRO[backbone])
    state = {
        key: tensor
        for key, tensor in to_reference_state_dict(micro(backbone)).items()
        if not key.startswith(("projector.", "audio_prompt_generator."))
    }
    with pytest.raises(WeightsError, match="missing"):
        lean.from_checkpoint(state)
    found = lean.from_checkpoint(state, absent=("projector.", "adapters."))
    assert not any(key.startswith(("projector.", "adapters.")) for key in found)
    assert {key.split(".")[0] for key in found} == {"segmenter"}


@both
def test_the_full_size_has_the_published_keys(shared: Path, backbone: Backbone) -> None:
    listed = json.loads((shared / "golden" / f"keys_{backbone}.json").read_text())["entries"]
    with empty_weights():
        model = AV2TSam(complete(FULL[backbone]))
    ours = to_reference_state_dict(model)
    assert {key: list(tensor.shape) for key, tensor in ours.items()} == {e["key"]: e["shape"] for e in listed}
    assert {tensor.device.type for tensor in ours.values()} <= {"meta", "cpu"}
    trained = [model.is_trained(key) for key in model.state_dict()]
    assert dict(zip(ours, trained, strict=True)) == {e["key"]: bool(e.get("trainable")) for e in listed}
