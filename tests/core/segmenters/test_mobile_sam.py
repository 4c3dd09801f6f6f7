"""MobileSAM at a micro size: prompts of all kinds, frames of all shapes, and what any segmenter is asked."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from av2t_core.model import presets
from av2t_core.prediction.predictor import Predictor
from av2t_core.segmenters.mobile_sam import NO_POINT, MobileSam, MobileSamConfig
from av2t_core.segmenters.tiny_vit import Convolutions, TinyVitConfig, WindowAttention
from av2t_core.training.paper import Inputs, PaperTraining, accelerator
from av2t_core.training.plan import PaperRecipe
from tests.core.toys import assert_same, fine_tuned, saved_and_loaded, windows

SIZE = 128
MICRO = MobileSamConfig(
    image_size=SIZE,
    width=32,
    encoder=TinyVitConfig(widths=(8, 8, 16, 16), depths=(1, 1, 2, 1), heads=(1, 2, 2), windows=(7, 3, 2)),
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MobileSam, "sizes", {"micro": MICRO})
    micro = presets.Preset(segmenter="mobile-sam", size="micro", image_encoder="tiny", audio_encoder="tiny")
    monkeypatch.setitem(presets.PRESETS, "micro", micro)
    monkeypatch.setitem(presets.PRESETS, "micro-noadapter", replace(micro, adapter=False))


def drawn() -> MobileSam:
    torch.manual_seed(0)
    model = MICRO.build().eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.biases.normal_()
    return model


def seen(model: MobileSam, *frames: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    images = model.inputs(model.squares(frames))
    return images, model.encode(images)


def frame(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height)) * 255


@pytest.mark.parametrize("kinds", [("boxes",), ("points",), ("boxes", "points")], ids="+".join)
def test_a_square_frame_has_the_masks_of_the_stock_predictor(kinds: tuple[str, ...]) -> None:
    from segment_anything import SamPredictor

    from av2t_core.segmenters.sam import build_sam

    model, picture = drawn(), frame(200, 200)
    images, features = seen(model, picture)
    model.image_encoder.img_size = SIZE  # type: ignore[assignment]
    theirs_all = build_sam(model.image_encoder, MICRO).eval()
    theirs_all.load_state_dict(model.sam.state_dict())
    stock = SamPredictor(theirs_all)
    stock.set_torch_image(model.squares([picture])["picture"], (200, 200))
    torch.testing.assert_close(features[0], stock.features)
    prompts = {"boxes": torch.tensor([[20.0, 30, 120, 150]]), "points": torch.tensor([[[50.0, 60], [90, 10]]])}
    given: dict[str, Any] = {kind: prompts[kind] for kind in kinds}
    theirs = {{"boxes": "box", "points": "point_coords"}[kind]: prompts[kind][0].numpy() for kind in kinds}
    if "points" in kinds:
        given["point_labels"] = torch.tensor([[1, 0]])
        theirs["point_labels"] = np.array([1, 0])

    tokens = model.prompt_tokens((200, 200), **given)
    found = model.decode(images, features, tokens)
    masks, ious, logits = (torch.from_numpy(each) for each in stock.predict(**theirs, return_logits=True))
    torch.testing.assert_close(found.logits[0], logits)
    torch.testing.assert_close(found.scores[0], ious)
    torch.testing.assert_close(model.upsample(found.logits[0], (200, 200)), masks)
    assert found.counts.tolist() == [(ious == ious.max()).tolist()]

    refined = model.refine(features, tokens, found.logits[:, 1])
    _, ious, logits = (torch.from_numpy(each) for each in stock.predict(**theirs, mask_input=logits[1:2].numpy()))
    torch.testing.assert_close(refined.logits[0], logits)
    torch.testing.assert_close(refined.scores[0], ious)


def test_a_point_that_fills_up_is_what_the_stock_predictor_adds() -> None:
    model, points = drawn(), torch.tensor([[[50.0, 60], [0, 0]]])
    filled = model.prompt_tokens((90, 160), points=points, point_labels=torch.tensor([[1, NO_POINT]]))
    alone = model.prompt_tokens((90, 160), points=points[:, :1], point_labels=torch.tensor([[1]]))
    torch.testing.assert_close(filled[:, :2], alone)  # to both, one more is added
    torch.testing.assert_close(filled[:, 2:], alone[:, 1:])


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (160, 160), (1, 1), (7, 300)], ids=str)
def test_a_frame_keeps_its_shape(size: tuple[int, int]) -> None:
    model, picture = drawn(), frame(*size)
    images, features = seen(model, picture)
    rows, columns = (round(8 * side / max(size)) or 1 for side in size)
    assert images["grid"].tolist() == [[[rows], [columns]]]
    assert not images["picture"][..., 16 * rows :, :].any()
    assert not images["picture"][..., 16 * columns :].any()
    found = model.decode(images, features, torch.randn(1, 2, 32))
    assert found.logits.shape == (1, 3, 4 * rows, 4 * columns)
    assert model.upsample(found.logits[0], size).shape == (3, *size)


def test_the_mirror_image_of_the_squares_is_that_of_the_frame() -> None:
    model, picture = drawn(), frame(160, 90)
    flipped = {name: square.flip(-1) for name, square in model.squares([picture]).items()}
    expected = model.inputs(model.squares([picture.flip(-1)]))
    torch.testing.assert_close(model.inputs(flipped), expected)
    kept = {name: square.round().clamp(0, 255).to(torch.uint8) for name, square in flipped.items()}
    torch.testing.assert_close(model.inputs(kept), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("height", [1, 32, 70])
def test_convolutions_by_rows_are_those_of_the_whole(height: int) -> None:
    torch.manual_seed(0)
    convolutions, x = Convolutions(8), torch.randn(2, 8, height, 12)
    whole = convolutions._rows(x, 0, height)
    torch.testing.assert_close(convolutions(x), whole)
    with torch.no_grad():
        torch.testing.assert_close(convolutions(x), whole)


def test_frames_of_several_shapes_are_computed_together_as_alone() -> None:
    model, frames = drawn(), [frame(90, 160), frame(160, 90), frame(120, 160), frame(45, 80)]
    images, features = seen(model, *frames)
    text, pictures = torch.randn(5, 2, 32), torch.tensor([2, 0, 3, 1, 0])
    together = model.decode(images, features, text, pictures)
    assert together.logits.shape == (5, 3, 32, 32)
    additions = [torch.randn(4, width) for width in model.block_widths]
    added = model.encode(images, additions)
    for picture, alone in enumerate(frames):
        own, own_features = seen(model, alone)
        torch.testing.assert_close(features[0][picture], own_features[0][0])
        torch.testing.assert_close(
            added[0][picture], model.encode(own, [each[picture, None] for each in additions])[0][0]
        )
        which = pictures == picture
        found = model.decode(own, own_features, text[which], torch.zeros(int(which.sum()), dtype=torch.long))
        torch.testing.assert_close(together.scores[which], found.scores)
        size = alone.shape[1], alone.shape[2]
        torch.testing.assert_close(
            model.upsample(together.logits[which, 0], size), model.upsample(found.logits[:, 0], size), atol=0.05, rtol=0
        )
    assert not torch.equal(added[0], features[0])


def test_it_predicts_is_saved_and_loaded_and_fine_tuned(tmp_path: Path) -> None:
    predictor = Predictor.random("micro", "cpu", precision="fp32")
    again = saved_and_loaded(predictor, "micro", tmp_path)
    assert_same(list(predictor.predict(windows())), list(again.predict(windows())))
    changed = {name for name in fine_tuned(again, tmp_path / "run") if name.startswith("segmenter.")}
    assert {name.split(".")[2] for name in changed} == {"mask_decoder", "prompt_encoder"}
    assert "segmenter.sam.prompt_encoder.no_mask_embed.weight" in changed


@pytest.mark.parametrize("preset", ["micro", "micro-noadapter"])
def test_it_is_trained_as_the_paper_does(preset: str) -> None:
    model = Predictor.random(preset, "cpu", precision="fp32").loaded.model
    segmenter = model.segmenter
    images = segmenter.inputs(segmenter.squares([frame(30, 40), frame(40, 30)]))
    model.recompute()
    training = PaperTraining(model, PaperRecipe(), accelerator(cpu=True))
    features = None if model.adapters else [feature.detach() for feature in segmenter.encode(images)]
    given = Inputs(
        images={} if features else images,
        v=torch.rand(2, 256),
        a=torch.rand(2, 256),
        features=features,
        target=(torch.rand(2, 30, 40) > 0.5).float(),
    )
    first, second = (training.learn([given], count=1, frames=2) for _ in range(2))
    assert second["loss"] < first["loss"]
    learned = {name for name in training.learned if name.startswith("segmenter.")}
    assert {".".join(name.split(".")[1:3]) for name in learned} == {"sam.mask_decoder", "sam.prompt_encoder"}


def test_in_bf16_it_says_about_the_same() -> None:
    predictor, model = Predictor.random("micro", "cpu", precision="bf16"), drawn()
    matrices = {name.removeprefix("segmenter.") for name in predictor.loaded.model.matrices()}
    assert "sam.image_encoder.stages.1.0.attention.qkv.weight" in matrices
    assert len(list(predictor.predict(windows()))) == 3
    images, features = seen(model, frame(90, 160))
    for name, parameter in model.named_parameters():
        if name in matrices:
            parameter.data = parameter.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        halved, _ = model.encode(images)
    torch.testing.assert_close(halved.float(), features[0], atol=0.1, rtol=0)  # their deviation is 1


def test_plain_attention_says_the_same() -> None:
    model = drawn()
    images, features = seen(model, frame(90, 160))
    with model.plain_attention():
        torch.testing.assert_close(model.encode(images)[0], features[0])


def test_the_preset_loads_without_the_stock_package_and_torchvision() -> None:
    load = "import sys; from av2t_core.prediction.predictor import Predictor; Predictor.load('small', 'cpu')"
    told = "print({'segment_anything', 'torchvision', 'torch._dynamo'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", f"{load}; {told}"], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
