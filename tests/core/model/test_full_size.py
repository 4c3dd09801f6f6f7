"""The paper's models at their real size, with weights made from their names: `make test-full`, some ten minutes.

No published checkpoint and no full-size output of the reference is at hand. What is compared is the road that predicts
(fused attention, lean model, bf16) with the plain one: fp32, attention as the stock packages write it out.
"""

import pytest
import torch
from torch import Tensor, nn

from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.presets import PRESETS
from av2t_core.model.published_weights import empty_weights
from tests.core.model.micro import (
    Batch,
    complete,
    load_reference_state_dict,
    reference_weights,
    to_reference_state_dict,
)
from tests.data.golden import by_name

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

MASK_TOLERANCE = 2e-4


@pytest.mark.parametrize(
    ("preset", "keys", "parameters"), [("sam2-l", 2075, 927_196_706), ("sam1-h", 1643, 1_326_792_752)]
)
def test_the_fast_road_gives_what_the_plain_one_gives(preset: str, keys: int, parameters: int) -> None:
    config = PRESETS[preset].config()
    with empty_weights():
        whole, lean = AV2TSam(complete(config)), AV2TSam(config)
    weights = reference_weights(whole)
    assert len(weights) == keys
    assert sum(parameter.numel() for parameter in whole.parameters()) == parameters
    load_reference_state_dict(whole, weights)
    back = to_reference_state_dict(whole)
    assert all(torch.equal(back[key], tensor) for key, tensor in weights.items())
    lean.load_state_dict(lean.from_checkpoint(weights), assign=True)
    lean.eval()

    sam, multimodal, v, a = (
        torch.from_numpy(by_name.tensor_input(f"full.{name}", shape))
        for name, shape in {
            "images_sam": (1, 3, 1024, 1024),
            "images_beit": (1, 3, 224, 224),
            "v": (1, config.image_width),
            "a": (1, config.audio_width),
        }.items()
    )
    batch = ({"sam": sam, "multimodal": multimodal}, v, a)
    with torch.inference_mode(), whole.segmenter.plain_attention():
        plain = results(whole.eval(), batch)
    with torch.inference_mode():
        fused = results(lean, batch)
    for name in list(lean.matrices()):
        module = lean.get_submodule(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        setattr(module, leaf, nn.Parameter(module.get_parameter(leaf).bfloat16(), requires_grad=False))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        narrow = results(lean, batch)

    print(f"\n{preset}: largest differences from fp32 with the attention written out")
    for name, found in (("fused, fp32", fused), ("fused, bf16", narrow)):
        told = ", ".join(f"{key} {difference(found[key], plain[key]):.1e}" for key in plain)
        agree = ((found["masks"] > 0) == (plain["masks"] > 0)).float().mean()
        print(f"  {name}: {told}; {100 * float(agree):.2f} % of the mask's pixels agree")
    print("  in absolute size: " + ", ".join(f"{key} {float(value.abs().max()):.1e}" for key, value in plain.items()))
    assert difference(fused["masks"], plain["masks"]) < MASK_TOLERANCE
    assert fused["iou"].argmax() == plain["iou"].argmax()


def results(model: AV2TSam, batch: Batch) -> dict[str, Tensor]:
    found = model.candidates(*batch)
    masks = model.segmenter.upsample(found.union, (224, 224))
    return {"logits": found.logits, "iou": found.scores, "masks": masks}


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())
